"""B1 to B6, B19 and B22: what the numbers of a step must be, whatever comes in.

Every check takes a subject, returns its result as text, and fails by an exception.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ortho import diagnostics, testing
from optax_ortho.testing import random_like
from tests.reliability.subjects import MATRICES, Subject
from tests.rows import new_params


class NotPromised(Exception):
    """The row says nothing about this optimizer, and why."""


def step(tx: Any, gradient: Any, params: Any) -> tuple[Any, Any]:
    return jax.jit(tx.update)(gradient, tx.init(params), params)


def finite(tree: Any, what: str) -> None:
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        good = bool(jnp.isfinite(leaf).all())
        assert good, f"{what}: {jax.tree_util.keystr(keys)} is not finite"


def named(tree: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(keys, simple=True, separator="/"): np.asarray(leaf)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def difference(actual: Any, expected: Any, names: Any = None) -> float:
    """The largest difference over the largest entry of a leaf."""
    worst, actual = 0.0, named(actual)
    for name, want in named(expected).items():
        if names is None or name in names:
            gap = np.abs(actual[name].astype(complex) - want.astype(complex)).max()
            worst = max(worst, gap / max(np.abs(want).max(), 1e-30))
    assert not np.isnan(worst), "there is a NaN"
    return float(worst)


def b1(subject: Subject) -> str:
    """A gradient of zero gives an update of exactly zero."""
    for dtype in ("float32", "bfloat16", "float16", "float64", "complex64"):
        with jax.enable_x64(dtype == "float64"):
            if dtype == "complex64" and subject.real:
                continue  # B16 asks that it says so.
            tx, params = subject.standard(jnp.dtype(dtype))
            updates, state = step(tx, optax.tree.zeros_like(params), params)
            for name, leaf in named(updates).items():
                assert not leaf.astype(complex).any(), f"{dtype} {name} is not zero"
            finite(state, dtype)
    return "0 in 5 dtypes" if not subject.real else "0 in 4 dtypes"


# Half precision rounds what is no power of two, before we see it.
SCALES = {
    "float32": ([float(f"1e{e}") for e in range(-30, 38, 4)], 1e-4),
    "bfloat16": ([2.0**e for e in range(-100, 121, 20)], 1e-3),
    "float16": ([2.0**e for e in (-5, 0, 13)], 1e-3),
    "float64": ([float(f"1e{e}") for e in range(-290, 291, 58)], 1e-6),
}


def b2(subject: Subject) -> str:
    """The first step of a matrix is invariant to the scale of its gradient."""
    if not subject.matrices:
        raise NotPromised("it treats all leaves as vectors")
    figures = []
    for dtype, (factors, tolerance) in SCALES.items():
        with jax.enable_x64(dtype == "float64"):
            tx, params = subject.standard(jnp.dtype(dtype))
            one, state = jax.jit(tx.update), tx.init(params)
            gradient = random_like(params)
            expected, _ = one(gradient, state, params)
            worst = 0.0
            for factor in factors:
                scaled = jax.tree.map(
                    lambda x, by=factor: x * jnp.asarray(by, x.dtype), gradient
                )
                updates, _ = one(scaled, state, params)
                worst = max(worst, difference(updates, expected, MATRICES))
                assert worst < tolerance, (
                    f"{dtype} {factor:.0e}: differs by {worst:.1e}"
                )
        figures.append(f"{worst:.0e}")
    return "/".join(figures)


def spoilt(gradient: Any, name: str, bad: float) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda keys, x: (
            x.at[(0,) * x.ndim].set(bad)
            if jax.tree_util.keystr(keys, simple=True, separator="/") == name
            else x
        ),
        gradient,
    )


def b3(subject: Subject) -> str:
    """One bad entry skips its matrix, is counted, and has no later effect."""
    tx, params = subject.standard()
    gradient, one = random_like(params), jax.jit(tx.update)
    for bad in (np.nan, np.inf, -np.inf):
        for name in named(params):
            updates, state = one(spoilt(gradient, name, bad), tx.init(params), params)
            finite((updates, state), f"{bad} in {name}")
            for other, leaf in named(updates).items():
                alive = leaf[1:] if other == name == "stack" else leaf
                stays = other == name and (name != "stack" or not subject.matrices)
                assert alive.any() != stays, f"{bad} in {name}: {other}"
            assert diagnostics(state)["skipped"] == 1, "it is not counted"
    return "skips 1"


def b4(subject: Subject) -> str:
    """Bad steps leave the state finite, and training continues."""
    tx, params = subject.standard()
    for number in (3, 100):
        testing.check_recovers(tx, params, number)
    return "3 and 100 steps"


ODD_SHAPES = {
    "one": (1, 1),
    "row": (1, 9),
    "column": (9, 1),
    "wide": (2, 512),
    "tall": (512, 2),
    "no_rows": (0, 4),
    "no_columns": (4, 0),
    "nothing": (0, 0),
    "three": (2, 3, 4),
    "four": (2, 2, 3, 4),
    "five": (1, 2, 2, 3, 4),
    "scalar": (),
    "vector": (3,),
}


def odd_matrices() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    one = np.outer(rng.normal(size=8), rng.normal(size=6))
    twice = np.repeat(rng.normal(size=(4, 6)), 2, axis=0)
    rows = rng.normal(size=(8, 6)) * (np.arange(8) % 2)[:, None]
    return {
        "rank_one": one,
        "twice": twice,
        "identity": np.eye(8, 6),
        "equal": np.ones((8, 6)),
        "zero_rows": rows,
    }


def b5(subject: Subject) -> str:
    """Updates of unusual shapes and of singular matrices are finite."""
    labels = {k: "matrix" if len(s) > 1 else "vector" for k, s in ODD_SHAPES.items()}
    labels |= {k: optax_axes() for k, s in ODD_SHAPES.items() if len(s) > 2}
    params = new_params(ODD_SHAPES)
    tx = subject.new(labels, params)
    updates, state = step(tx, random_like(params), params)
    finite((updates, state), "odd shapes")
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    gradient = jax.tree.map(jnp.float32, odd_matrices())
    gradient = jax.tree.map(jnp.asarray, gradient)
    tx = subject.new(dict.fromkeys(gradient, "matrix"), gradient)
    updates, state = step(tx, gradient, gradient)
    finite((updates, state), "odd matrices")
    if not subject.polar:
        return "finite"
    values = np.linalg.svd(np.asarray(updates["rank_one"], np.float64))[1]
    assert values[1] / values[0] < 1e-3, f"null space {values[1] / values[0]:.0e}"
    return f"null space {values[1] / values[0]:.0e}"


def optax_axes():
    from optax_ortho import MatrixAxes

    return MatrixAxes()


def b6(subject: Subject) -> str:
    """The singular values of the update are bounded, in every dtype."""
    if not subject.polar:
        raise NotPromised("its update is no polar factor")
    figures = []
    for dtype in ("float32", "bfloat16", "float16"):
        params = new_params({"kernel": (128, 32)}, jnp.dtype(dtype))
        tx = subject.new({"kernel": "matrix"}, params)
        updates, _ = step(tx, random_like(params), params)
        update = np.asarray(updates["kernel"], np.float64)
        values = np.linalg.svd(update, compute_uv=False)
        values /= np.sqrt(np.mean(values**2))
        # Five Newton-Schulz steps on a matrix of condition 3, around their mean.
        assert 0.6 < values.min() and values.max() < 1.3, f"{dtype} {values}"
        figures.append(f"[{values.min():.2f}, {values.max():.2f}]")
    return " ".join(figures)


def b19(subject: Subject) -> str:
    """The update has finite derivatives, even at a gradient of zero."""
    tx, params = subject.standard()
    state = tx.init(params)

    @jax.jit
    @jax.grad
    def slope(gradient):
        updates, _ = tx.update(gradient, state, params)
        return sum(jnp.sum(x + x**2) for x in jax.tree.leaves(updates))

    finite(slope(random_like(params)), "the derivative")
    if not subject.matmul:
        return "random; at 0 a QR or a root has none"
    finite(slope(optax.tree.zeros_like(params)), "the derivative at zero")
    return "random and 0"


def b22(subject: Subject) -> str:
    """A stack equals its slices, and the update rotates with the gradient."""
    if not subject.matrices:
        raise NotPromised("it treats all leaves as vectors")
    rng = np.random.default_rng(1)
    stack = jnp.asarray(rng.normal(size=(3, 6, 4)), jnp.float32)
    slices = {f"layer_{i}": {"kernel": x} for i, x in enumerate(stack)}
    tx = subject.new({f"layer_{i}/kernel": "matrix" for i in range(3)}, slices)
    if subject.statistics:
        raise NotPromised("its statistics make each layer another")
    each, _ = step(tx, slices, slices)
    each = jnp.stack([each[f"layer_{i}"]["kernel"] for i in range(3)])
    tx = subject.new({"stack": optax_axes()}, {"stack": stack})
    together, _ = step(tx, {"stack": stack}, {"stack": stack})
    worst = difference(together["stack"], each)
    if subject.rotates:
        q = jnp.asarray(np.linalg.qr(rng.normal(size=(6, 6)))[0], jnp.float32)
        r = jnp.asarray(np.linalg.qr(rng.normal(size=(4, 4)))[0], jnp.float32)
        with jax.default_matmul_precision("highest"):
            turned = {"stack": q @ stack @ r}
            updates, _ = step(tx, turned, turned)
            worst = max(worst, difference(updates["stack"], q @ each @ r))
    # Five steps enlarge the rounding of a product by up to 3.4 each.
    assert worst < 2e-5, f"differs by {worst:.0e}"
    return f"{worst:.0e}" if subject.rotates else f"{worst:.0e}, slices alone"


@contextlib.contextmanager
def option(name: str, value: Any) -> Any:
    """Sets an option of JAX inside a block."""
    old = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, old)
