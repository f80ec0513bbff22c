"""A new fit of ROOT's coefficients by shape, the table of the library.

    python -m benchmarks.root_fit
    python -m benchmarks.root_fit --shapes 768x3072 96x384

For each shape it prints the fit, the distance of the peak of its polynomial from the
point of divergence, and the relative errors of five steps with it and with Keller
Jordan's table on the two spectra of the fit. The default is the shapes of the library's
table.
"""

import argparse

from optax_ortho.orthogonalizers import FITTED
from optax_ortho.orthogonalizers.fit import fit, momentum, noise, relative_error, room
from optax_ortho.orthogonalizers.tables import KELLER_JORDAN


def line(short: int, long: int) -> str:
    table = fit(short, long)
    errors = [
        relative_error(rows, spectrum)
        for spectrum in (noise(short, long), momentum(short))
        for rows in (table, KELLER_JORDAN)
    ]
    columns = "".join(f"{error:9.4f}" for error in errors)
    return f"({short}, {long}): {table.rows[0]},{room(table.rows[0]):8.3f}{columns}"


def shape(text: str) -> tuple[int, int]:
    m, n = map(int, text.split("x"))
    return min(m, n), max(m, n)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.root_fit")
    parser.add_argument("--shapes", nargs="+", type=shape, default=list(FITTED.tables))
    options = parser.parse_args()
    print("shape: row, room, error on noise and Jordan's, on momentum and Jordan's")
    for short, long in options.shapes:
        print(line(short, long))


if __name__ == "__main__":
    main()
