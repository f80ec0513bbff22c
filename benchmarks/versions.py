"""The tests on every Python, and on the oldest and newest dependencies.

    python -m benchmarks.versions
    python -m benchmarks.versions --only py312 py313 --core

Each environment is created in a temporary folder. The newest versions are the pins of
`constraints.txt`, the oldest the lower bounds of `pyproject.toml`. `--core` runs a
minute of tests instead of the quick part. A Python that is not installed is skipped
with a message.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDEST = ["jax==0.10.0", "jaxlib==0.10.0", "optax==0.2.8", "flax==0.12.2"]
ENVIRONMENTS = {
    "py311": ("python3.11", []),
    "py312": ("python3.12", []),
    "py313": ("python3.13", []),
    "oldest": ("python3.11", OLDEST),
}
# The oldest Flax uses names of JAX that are now deprecated.
ALLOWED = ["-W", "ignore:jax.core:DeprecationWarning"]
CORE = [
    "tests/test_architecture.py",
    "tests/test_checks.py",
    "tests/test_chain.py",
    "tests/test_guard.py",
    "tests/test_matrices.py",
    "tests/test_dtypes.py",
    "tests/optimizers/test_muon.py",
    "tests/labels/test_flax_nnx.py",
    "tests/reliability/test_messages.py",
    "tests/reliability/test_checkpoints.py",
]


def pins(oldest: list[str]) -> list[str]:
    """The lines of `constraints.txt`, with some of them replaced."""
    names = {pin.split("==")[0] for pin in oldest}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    kept = [line for line in lines if line.split("==")[0] not in names]
    return [*kept, *oldest]


def run(name: str, arguments: list[str], folder: Path) -> str:
    interpreter, oldest = ENVIRONMENTS[name]
    works = (
        shutil.which(interpreter)
        and not subprocess.run([interpreter, "-c", ""], capture_output=True).returncode
    )
    if not works:
        return f"skipped: no {interpreter}"
    constraints = folder / f"{name}.txt"
    constraints.write_text("\n".join(pins(oldest)))
    python = folder / name / "bin" / "python"
    arguments = [*arguments, *ALLOWED] if oldest else arguments
    install = [str(python), "-m", "pip", "install", "-q", "-c", str(constraints)]
    steps = [
        [interpreter, "-m", "venv", str(folder / name)],
        [*install, "hatchling", "editables"],
        [*install, "--no-build-isolation", "--editable", f"{ROOT}[train,test]"],
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
    ]
    for step in steps:
        done = subprocess.run(
            step,
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        if done.returncode:
            return f"FAIL in {step[3]}: {(done.stdout + done.stderr)[-1500:]}"
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    known = list(ENVIRONMENTS)
    parser.add_argument("--only", nargs="+", choices=known, default=known)
    parser.add_argument("--core", action="store_true")
    options = parser.parse_args()
    arguments = CORE if options.core else ["-n", "2"]
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            result = run(name, [*arguments, "-m", "not slow"], Path(folder))
            failed |= result.startswith("FAIL")
            print(f"{name}: {result}", flush=True)
            shutil.rmtree(Path(folder) / name, ignore_errors=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
