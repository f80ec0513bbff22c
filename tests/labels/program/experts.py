"""Programs with experts: routers, and stacks of matrices that share their input."""

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.matrices import MatrixAxes, Split
from tests.labels.program.case import Table, floats

table = Table()
X = floats(9, 6)
STACK = MatrixAxes(1, 2)
EXPERTS = {
    "router": ((6, 4), "vector"),
    "up": ((4, 6, 8), STACK),
    "down": ((4, 8, 6), STACK),
    "out": ((6, 3), "head"),
}


def shares_of(p, x, k=2):
    """Shares of every expert, zero but for the best k."""
    shares, experts = lax.top_k(jax.nn.softmax(x @ p["router"]), k)
    shares = shares / shares.sum(-1, keepdims=True)
    return jnp.einsum("tk,tke->te", shares, jax.nn.one_hot(experts, 4))


@table(EXPERTS, X)
def all_experts_on_all_tokens(p, x):
    h = jax.nn.silu(jnp.einsum("td,edf->tef", x, p["up"]))
    y = jnp.einsum("tef,efd->ted", h, p["down"])
    return (x + jnp.einsum("te,ted->td", shares_of(p, x), y)) @ p["out"]


@table(EXPERTS, X)
def dispatched_by_one_hot(p, x):
    shares = shares_of(p, x, k=1)
    place = jnp.cumsum(shares > 0, 0) - 1
    dispatch = jax.nn.one_hot(jnp.where(shares > 0, place, -1), 5)  # (t, e, capacity)
    rows = jnp.einsum("tec,td->ecd", dispatch, x)
    h = jax.nn.silu(jnp.einsum("ecd,edf->ecf", rows, p["up"]))
    y = jnp.einsum("ecf,efd->ecd", h, p["down"])
    combine = dispatch * shares[..., None]
    return (x + jnp.einsum("tec,ecd->td", combine, y)) @ p["out"]


@table(EXPERTS, X)
def gathered_by_the_index_of_an_expert(p, x):
    shares, experts = lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
    h = jax.nn.silu(jnp.einsum("td,tkdf->tkf", x, p["up"][experts]))
    y = jnp.einsum("tkf,tkfd->tkd", h, p["down"][experts])
    return (x + jnp.einsum("tk,tkd->td", shares, y)) @ p["out"]


@table(EXPERTS, X)
def ragged(p, x):
    shares, experts = lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
    order = jnp.argsort(experts.reshape(-1))
    sizes = jnp.bincount(experts.reshape(-1), length=4)
    rows = jnp.repeat(x, 2, axis=0)[order]
    h = jax.nn.silu(lax.ragged_dot(rows, p["up"], sizes))
    y = lax.ragged_dot(h, p["down"], sizes)[jnp.argsort(order)].reshape(9, 2, 6)
    return (x + jnp.einsum("tk,tkd->td", shares, y)) @ p["out"]


@table(EXPERTS, X)
def vmapped(p, x):
    def expert(up, down):
        return jax.nn.silu(x @ up) @ down

    y = jax.vmap(expert)(p["up"], p["down"])
    return (x + jnp.einsum("te,etd->td", shares_of(p, x), y)) @ p["out"]


@table(EXPERTS, X)
def scanned(p, x):
    def expert(total, own):
        up, down, share = own
        return total + share[:, None] * (jax.nn.silu(x @ up) @ down), None

    own = p["up"], p["down"], shares_of(p, x).T
    return lax.scan(expert, x, own)[0] @ p["out"]


@table({**EXPERTS, "bias": ((4,), "bias")}, X)
def sigmoid_scores_with_a_bias_for_the_choice(p, x):
    scores = jax.nn.sigmoid(x @ p["router"])
    _, experts = lax.top_k(scores + p["bias"], 2)
    shares = jnp.take_along_axis(scores, experts, -1)
    shares = jnp.einsum(
        "tk,tke->te", shares / shares.sum(-1, keepdims=True), jax.nn.one_hot(experts, 4)
    )
    h = jax.nn.silu(jnp.einsum("td,edf->tef", x, p["up"]))
    y = jnp.einsum("tef,efd->ted", h, p["down"])
    return (x + jnp.einsum("te,ted->td", shares, y)) @ p["out"]


@table(EXPERTS, X)
def experts_that_choose_tokens(p, x):
    scores = jax.nn.softmax(x @ p["router"])
    shares, tokens = lax.top_k(scores.T, 3)  # (e, c)
    h = jax.nn.silu(jnp.einsum("ecd,edf->ecf", x[tokens], p["up"]))
    y = jnp.einsum("ecf,efd->ecd", h, p["down"]) * shares[..., None]
    return x.at[tokens.reshape(-1)].add(y.reshape(-1, 6)) @ p["out"]


@table({**EXPERTS, "up": ((4, 6, 16), MatrixAxes(1, 2, Split(2, (8, 8))))}, X)
def gated_experts(p, x):
    gate, up = jnp.split(jnp.einsum("td,edf->tef", x, p["up"]), 2, -1)
    y = jnp.einsum("tef,efd->ted", jax.nn.silu(gate) * up, p["down"])
    return (x + jnp.einsum("te,ted->td", shares_of(p, x), y)) @ p["out"]


@table({**EXPERTS, "shared": ((6, 6), MatrixAxes(0, 1)), "mix": ((6, 1), "vector")}, X)
def with_a_shared_expert_and_an_auxiliary_loss(p, x):
    h = jax.nn.silu(jnp.einsum("td,edf->tef", x, p["up"]))
    y = jnp.einsum("tef,efd->ted", h, p["down"])
    shares = shares_of(p, x)
    y = jnp.einsum("te,ted->td", shares, y)
    y += jax.nn.sigmoid(x @ p["mix"]) * jax.nn.gelu(x @ p["shared"])
    return (x + y) @ p["out"], (shares.mean(0) ** 2).sum()


@table({**EXPERTS, "router": ((6, 4), MatrixAxes(0, 1))}, X)
def soft_mixture(p, x):
    """Every expert has a share in every token, so nothing is chosen."""
    h = jax.nn.silu(jnp.einsum("td,edf->tef", x, p["up"]))
    y = jnp.einsum("tef,efd->ted", h, p["down"])
    return (x + jnp.einsum("te,ted->td", jax.nn.softmax(x @ p["router"]), y)) @ p["out"]


@table({**EXPERTS, "router": ((6, 4), "vector")}, X)
def chosen_in_groups(p, x):
    scores = jax.nn.softmax(x @ p["router"])
    best = lax.top_k(scores.reshape(9, 2, 2), 1)[0].sum(-1)
    group = lax.top_k(best, 1)[1]
    mask = jnp.repeat(jax.nn.one_hot(group[:, 0], 2), 2, axis=-1)
    shares, experts = lax.top_k(scores * mask, 1)
    h = jax.nn.silu(jnp.einsum("td,tkdf->tkf", x, p["up"][experts]))
    y = jnp.einsum("tkf,tkfd->tkd", h, p["down"][experts])
    return (x + jnp.einsum("tk,tkd->td", shares, y)) @ p["out"]


ONE_STACK = {name: EXPERTS[name] for name in ("router", "out")}


@table({**ONE_STACK, "w": ((4, 6, 6), STACK)}, X)
def tokens_experts_and_shares_in_one_einsum(p, x):
    y = jnp.einsum("td,edf,te->tf", x, p["w"], shares_of(p, x))
    return (x + y) @ p["out"]


@table({**ONE_STACK, "w": ((4, 6, 6), STACK)}, X)
def shares_summed_by_hand(p, x):
    shares, experts = lax.top_k(x @ p["router"], 2)
    shares = (jax.nn.one_hot(experts, 4) * shares[..., None]).sum(-2)
    y = jnp.einsum("td,edf,te->tf", x, p["w"], shares)
    return (x + y) @ p["out"]


STACKED = {
    "router": ((3, 6, 4), "vector"),
    "up": ((3, 4, 6, 8), MatrixAxes(2, 3)),
    "down": ((3, 4, 8, 6), MatrixAxes(2, 3)),
    "out": ((6, 3), "head"),
}


@table(STACKED, X)
def layers_of_experts(p, x):
    def layer(x, own):
        h = jax.nn.silu(jnp.einsum("td,edf->tef", x, own["up"]))
        y = jnp.einsum("tef,efd->ted", h, own["down"])
        return x + jnp.einsum("te,ted->td", shares_of(own, x), y), None

    own = {name: p[name] for name in ("router", "up", "down")}
    return lax.scan(layer, x, own)[0] @ p["out"]


@table({"w": ((5, 6, 8), STACK), "out": ((5, 8, 3), "head")}, floats(5, 9, 6))
def an_ensemble(p, x):
    return jax.vmap(lambda w, out, x: jnp.tanh(x @ w) @ out)(p["w"], p["out"], x)
