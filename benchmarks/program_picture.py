"""Draws the picture of the page on labels: python -m benchmarks.program_picture.

A small program, its parameters in the color of the role that `label` reads from it.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import optax_ortho
from optax_ortho.plots import style

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PROGRAM = """\
def forward(p, tokens):
    x = p.table[tokens] + p.position
    y = x / rms(x) * p.scale
    q, k, v = split(y @ p.qkv, 3, axis=-1)
    x = x + softmax(q @ k.T) @ v @ p.out
    weights, chosen = top_k(x @ p.router, 2)
    y = relu(einsum("td,edf->tef", x, p.up))
    y = einsum("tef,efd->ted", y, p.down)
    x = x + mixed(y, weights, chosen)
    return x @ p.logits
"""
# What the program does with each, in the order of its lines.
USES = {
    "table": "rows are looked up, or added to each token",
    "scale": "multiplies what was divided by a root",
    "qkv": "axis 0 is contracted; the result has 3 blocks",
    "out": "axis 0 is contracted",
    "router": "contracted, but its result chooses experts",
    "up": "axis 1 is contracted; axis 0 numbers experts",
    "down": "axis 1 is contracted; axis 0 numbers experts",
    "logits": "contracted last: only the output follows",
}
COLORS = {
    "matrix": "#2f80c8",
    "embedding": "#0e8a7d",
    "norm": "#8b5cf6",
    "vector": "#b7791f",
    "head": "#d9590b",
}
DPI = 110
SIZE = 10 / DPI * 72 / 0.602  # Points, so that a character is 10 pixels wide.
LINE, WIDTH = 31, 1090  # Pixels.
COLUMNS = 1, 48, 68  # Of the program, the roles and the remarks, in characters.
HEADINGS = "program", "role", "read from"


class Parameters(NamedTuple):
    """The shapes of the parameters, by their names in the program."""

    table: Any = (50, 16)
    position: Any = (7, 16)
    scale: Any = (16,)
    qkv: Any = (16, 48)
    out: Any = (16, 16)
    router: Any = (16, 4)
    up: Any = (4, 16, 32)
    down: Any = (4, 32, 16)
    logits: Any = (16, 50)


def labels() -> optax_ortho.Labels:
    """The labels of the program's parameters, read by tracing it."""
    session: dict[str, Any] = {
        "einsum": jnp.einsum,
        "relu": jax.nn.relu,
        "softmax": jax.nn.softmax,
        "split": jnp.split,
        "top_k": jax.lax.top_k,
        "rms": lambda x: jnp.sqrt(jnp.square(x).mean(-1, keepdims=True)),
        "mixed": lambda y, weights, chosen: jnp.einsum(
            "ted,tke,tk->td", y, jax.nn.one_hot(chosen, 4), weights
        ),
    }
    exec(PROGRAM, session)
    shapes = Parameters()
    params = Parameters(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
    tokens = jax.ShapeDtypeStruct((7,), jnp.int32)
    return optax_ortho.label(session["forward"], params, tokens)


def draw(table: optax_ortho.Labels) -> Figure:
    """The program, with the role of each parameter in its color and beside it."""
    rows = {path: (shape, label) for path, shape, label in table}
    lines = PROGRAM.splitlines()
    figure = plt.figure(figsize=(WIDTH / DPI, (len(lines) + 2) * LINE / DPI))
    plt.close(figure)
    for column, heading in zip(COLUMNS, HEADINGS, strict=True):
        _write(figure, column, 0, heading, style.NEUTRAL, weight="bold")
    for i, line in enumerate(lines, 1):
        for part in re.finditer(r"p\.\w+|(?:(?!p\.\w).)+", line):
            name = part.group().removeprefix("p.")
            color = COLORS[rows[name][1].role] if name in rows else style.ink()
            weight = "bold" if name in rows else "normal"
            column = COLUMNS[0] + part.start()
            _write(figure, column, i, part.group(), color, weight=weight)
        for name in (name for name in USES if re.search(rf"p\.{name}\b", line)):
            shape, label = rows[name]
            role = _described(label, shape)
            _write(figure, COLUMNS[1], i, role, COLORS[label.role], weight="bold")
            _write(figure, COLUMNS[2], i, USES[name], style.ink(), family="sans-serif")
    return figure


def _write(
    figure: Figure, column: int, row: int, text: str, color: str, **font: Any
) -> None:
    """Writes a text from a column of characters on."""
    x, y = column * 10 / WIDTH, (row + 1) * LINE / DPI / figure.get_figheight()
    font = {"family": "monospace", **font}
    figure.text(x, 1 - y, text, fontsize=SIZE, color=color, **font)


def _described(label: optax_ortho.Label, shape: tuple[int, ...]) -> str:
    """The role, and the axes of a matrix as in a printed table."""
    if label.axes is None:
        return label.role
    batch = "".join(f"[{axis}] " for axis in label.axes.batch(len(shape)))
    return f"{label.role} {batch}{label.axes.fan_in[0]} -> {label.axes.fan_out[0]}"


def main() -> None:
    """Draws the picture for bright and for dark pages."""
    table = labels()
    for look, background in {"light": "default", "dark": "dark_background"}.items():
        with plt.style.context(background):
            draw(table).savefig(PICTURES / f"program-{look}.png", dpi=DPI)


if __name__ == "__main__":
    main()
