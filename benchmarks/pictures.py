"""Draws the picture of the front page: python -m benchmarks.pictures.

The demo's GPT trains a little with NorMuon, and one gradient of one of its matrices
goes through the four stages.
"""

from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx

import optax_ortho
from examples import text
from examples.gpt import GPT, TOKENS, loss_fn
from optax_ortho import plots

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
CONTEXT, STEPS = 64, 100
NAMES = {
    "gradient": "gradient",
    "momentum": "1. momentum",
    "orthogonalize": "2. orthogonalize",
    "normalize": "3. normalize",
    "trust_region": "4. trust region",
}


def stages() -> dict[str, jnp.ndarray]:
    """The output of each stage for the gradient of an MLP's first kernel."""
    model = GPT(
        vocabulary=text.VOCABULARY,
        context=CONTEXT,
        layers=2,
        width=128,
        heads=4,
        rngs=nnx.Rngs(0),
    )
    tx = optax_ortho.normuon(
        optax.linear_schedule(0.0, 0.02, STEPS),
        labels=optax_ortho.label(model, TOKENS),
        adamw_learning_rate=0.003,
    )
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    train, _ = text.load(None, CONTEXT)

    @nnx.jit
    def gradient(model, tokens):
        return nnx.grad(loss_fn)(model, tokens)

    def batch(step):
        return jnp.asarray(text.windows(train, 16, CONTEXT, seed=(step,)))

    for step in range(STEPS):
        optimizer.update(model, gradient(model, batch(step)))
    arguments = gradient(model, batch(STEPS)), optimizer.opt_state, nnx.state(model)
    (outputs,) = optax_ortho.stage_outputs(tx, *nnx.as_pure(arguments))
    return {
        NAMES[name]: output.blocks.up.kernel[0]
        for name, output in outputs._asdict().items()
    }


def main() -> None:
    """Draws the picture for bright and for dark pages."""
    matrices = stages()
    for look, style in {"light": "default", "dark": "dark_background"}.items():
        with plt.style.context(style):
            figure = plots.spectra(matrices, "One gradient through the four stages")
            figure.savefig(PICTURES / f"stages-{look}.png", dpi=110)


if __name__ == "__main__":
    main()
