"""AM-AdamW: AdamW whose first moment has adaptive memory.

For every parameter x with gradient g, at step k with learning rate eta_k, one step is

    second moment   v <- b2 v + (1 - b2) g^2
    preconditioner  P <- (1 - b1_max B) (sqrt(v / (1 - b2^k)) + eps)
    momentum        gap <- eta_(k-1) sum(g (d / P + weight_decay x))
                    n <- (1 + weight_decay eta_k) gap / eta_k
                         - sum(w (d - g) (g + lam P d)) - weight_decay sum(x (d - g))
                    beta <- n / sum(w (d - g)^2), clipped to [0, b1_max]
                    d <- ((1 - beta) g + (lam P + beta) d) / (1 + lam P)
    step            x <- x - eta_k (d / P + weight_decay x)
    bias            B <- B beta

with w = 1 / (P (1 + lam P)), B = 1 at first, and the first beta b1_max. Sums are over
one leaf, so each has a beta of its own. Vectors and scalars do not decay. At a
learning rate of zero the gap is ignored. With lam = 0 and beta = b1_max always, it is
AdamW.

Nothing is orthogonalized; `adaptive_memory_muon` does that. No code of
the authors is public; this is their algorithm 3 as others have implemented it. Since
lam P has the units of a gradient, the step depends on the gradient's size: it is
AdamW's while P, near the root mean square of an entry, is far below 1 / lam.

References:
  Topollai and Choromanska, `Adaptive Memory Momentum via a Model-Based Framework for
  Deep Learning Optimization <https://arxiv.org/abs/2510.04988>`_, 2025, algorithm 3
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.blocks import quotient
from optax_ortho.checks import check_number, is_zero, refuse_array
from optax_ortho.guard import guard
from optax_ortho.inputs import refuse_complex
from optax_ortho.recipes import recipe_of, two_axes_or_more, whole_tree


class AmAdamWState(NamedTuple):
    """The state of AM-AdamW.

    Attributes:
      remembered: the number of gradients behind the moments.
      memory: the first moment d.
      moment: the second moment v, in float32.
      memory_beta: the last beta of each leaf.
      beta_product: the product B of all of them.
      last_rate: the learning rate of the last step.
    """

    remembered: jax.typing.ArrayLike
    memory: Any
    moment: Any
    memory_beta: Any
    beta_product: Any
    last_rate: jax.typing.ArrayLike


def scale_by_am_adamw(
    b1_max: Any = 0.89,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    lam: Any = 0.1,
    *,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    nonfinite: str | None = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """The direction of `am_adamw`, d / P.

    The recipe hands it ``learning_rate=``, the rate of the step. Used alone it takes
    the rate to be constant and small.

    Args:
      b1_max: the largest beta, in [0, 1). The authors take 0.9 - 0.1 lam.
      b2: decay of the second moment, in [0, 1).
      eps: added to the root of the second moment.
      lam: the penalty for leaving the memory, at least 0.
      weight_decay: the decoupled decay of a later stage; it is not added here, but beta
        depends on it.
      weight_decay_mask: the leaves that decay; None is all leaves with two or more
        axes.
      mu_dtype: dtype of the memory d; None is the parameter's own.
      nonfinite: "skip_matrix", which skips a leaf, "skip_step" or "off"; None is for a
        direction inside a guarded recipe.

    Returns:
      The direction, without learning rate and sign.

    Raises:
      ValueError: an argument out of range, or an update without parameters where
        something decays.

    Examples:
      >>> tx = scale_by_am_adamw()
      >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
      >>> print(updates.round(3))  # 1 / (1 + 0.11 lam)
      [0.989 0.989]
    """
    refuse_array("mu_dtype", mu_dtype)
    refuse_array("weight_decay_mask", weight_decay_mask)
    check_number("b1_max", b1_max, below=1.0)
    check_number("b2", b2, below=1.0)
    for name, value in {"eps": eps, "lam": lam, "weight_decay": weight_decay}.items():
        check_number(name, value)
    decays = not is_zero(weight_decay)

    def init(params):
        refuse_complex("am_adamw", params)

        def each(value):
            return jax.tree.map(lambda x: jnp.full([], value, jnp.float32), params)

        return AmAdamWState(
            jnp.zeros([], jnp.int32),
            optax.tree.zeros_like(params, dtype=mu_dtype),
            optax.tree.zeros_like(params, dtype=jnp.float32),
            each(0.0),
            each(1.0),
            jnp.zeros([], jnp.float32),
        )

    def update(updates, state, params=None, *, learning_rate: Any = None, **extra):
        del extra
        count = optax.safe_increment(state.remembered)
        rate, ratio = jnp.zeros([], jnp.float32), jnp.ones([], jnp.float32)
        if learning_rate is not None:
            rate = jnp.asarray(learning_rate, jnp.float32)
            ratio = quotient(state.last_rate, rate)

        def on_leaf(g, d, v, product, x, decays):
            g32, d32 = g.astype(jnp.float32), d.astype(jnp.float32)
            wd = jnp.where(decays, weight_decay, 0).astype(jnp.float32)
            x32 = x.astype(jnp.float32)
            # Without the bound, a gradient above 1e19 would stop this leaf for good.
            square = jnp.minimum(g32 * g32, jnp.finfo(jnp.float32).max)
            v = b2 * v + (1 - b2) * square
            # The root of zero has no derivative.
            some = v > 0
            root = jnp.where(some, jnp.sqrt(jnp.where(some, v, 1) / (1 - b2**count)), 0)
            p = (1 - b1_max * product) * (root + eps)
            inverse = quotient(jnp.ones_like(p), p)
            apart, stay = d32 - g32, 1 / (1 + lam * p)
            weighted = inverse * stay * apart
            gap = jnp.sum(g32 * (inverse * d32 + wd * x32))
            above = (1 + wd * rate) * ratio * gap
            # stay (g + lam P d) = stay g + (1 - stay) d, where lam P may be large.
            above -= jnp.sum(inverse * apart * (stay * g32 + (1 - stay) * d32))
            above -= wd * jnp.sum(x32 * apart)
            beta = quotient(above, jnp.sum(weighted * apart))
            beta = jnp.clip(jnp.where(jnp.isnan(beta), 0, beta), 0, b1_max)
            beta = jnp.where(count == 1, b1_max, beta).astype(jnp.float32)
            d32 = stay * ((1 - beta) * g32 + beta * d32) + (1 - stay) * d32
            step = (inverse * d32).astype(g.dtype)
            return step, d32.astype(d.dtype), v, beta, product * beta

        if decays and params is None:
            raise ValueError("am_adamw: a weight decay needs params in update.")
        given = updates if params is None else params
        results = jax.tree.map(
            on_leaf,
            updates,
            state.memory,
            state.moment,
            state.beta_product,
            given,
            _spread(weight_decay_mask, given),
        )
        treedef = jax.tree.structure(updates)
        leaves = treedef.flatten_up_to(results)  # A group of a partition has none.
        step, d, v, beta, product = (
            treedef.unflatten([leaf[i] for leaf in leaves]) for i in range(5)
        )
        return step, AmAdamWState(count, d, v, beta, product, rate)

    return guard(
        optax.GradientTransformationExtraArgs(init, update),
        nonfinite,
    )


def _spread(mask: Any, params: Any) -> Any:
    """One boolean for every leaf, from a mask, a function that returns one, or None."""
    if mask is None or callable(mask):
        mask = (two_axes_or_more if mask is None else mask)(params)
    return jax.tree.map(lambda m, x: jax.tree.map(lambda _: m, x), mask, params)


@recipe_of(scale_by_am_adamw, build=whole_tree)
def am_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1_max: Any = 0.89,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    lam: Any = 0.1,
    *,
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    nonfinite: str = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """AdamW with adaptive memory, for all leaves alike.

    Args:
      learning_rate: step size or schedule, of the size that AdamW takes: the authors'
        is 1e-3.
      weight_decay: decoupled decay, multiplied by the learning rate.
      weight_decay_mask: a tree of booleans, or a function from the parameters to one:
        the leaves that decay. None is all leaves with two or more axes.

    Examples:
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.am_adamw(1e-3, weight_decay=0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)
    """
    ...
