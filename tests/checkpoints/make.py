"""Writes the checkpoint of a release: states after two steps, and the third update.

    python -m tests.checkpoints.make

It refuses to overwrite one, because a released checkpoint has to load for ever.
"""

import jax
import numpy as np

import optax_ortho
from optax_ortho.checkpoints import to_flat
from optax_ortho.testing import random_like
from tests.reliability.bar_numbers import named
from tests.reliability.bar_places import GOLDEN
from tests.reliability.subjects import OURS


def main() -> None:
    file = GOLDEN / f"v{optax_ortho.__version__}.npz"
    if file.exists():
        raise SystemExit(f"{file} exists; delete it only if it was never released.")
    arrays = {}
    for subject in OURS:
        tx, params = subject.standard()
        state, step = tx.init(params), jax.jit(tx.update)
        for seed in range(2):
            _, state = step(random_like(params, seed), state, params)
        updates, _ = step(random_like(params, seed=2), state, params)
        for path, leaf in to_flat(state).items():
            arrays[f"{subject.name}|state|{path}"] = leaf
        for path, leaf in named(updates).items():
            arrays[f"{subject.name}|update|{path}"] = leaf
        print(subject.name)
    np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    main()
