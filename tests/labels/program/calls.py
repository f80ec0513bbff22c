"""Programs inside of calls: jit, remat, custom derivatives, vmap, shard_map."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optax_ortho.matrices import MatrixAxes
from tests.labels.program.case import Table, floats

table = Table()
X = floats(4, 6)
IN_OUT = MatrixAxes(0, 1)
OUT = {"out": ((8, 4), "head")}
LAYER = {"w": ((6, 8), IN_OUT), "b": ((8,), "bias"), **OUT}


def layer(p, x):
    return jnp.tanh(x @ p["w"] + p["b"])


@table(LAYER, X)
def jit(p, x):
    return jax.jit(jax.jit(layer))(p, x) @ p["out"]


@table(LAYER, X)
def remat(p, x):
    policy = jax.checkpoint_policies.save_only_these_names("h")
    return jax.checkpoint(layer, policy=policy)(p, x) @ p["out"]


@jax.custom_jvp
def by_jvp(p, x):
    return layer(p, x)


by_jvp.defjvp(lambda primals, tangents: jax.jvp(layer, primals, tangents))


@table(LAYER, X)
def custom_jvp(p, x):
    return by_jvp(p, x) @ p["out"]


@jax.custom_vjp
def by_vjp(p, x):
    return layer(p, x)


by_vjp.defvjp(lambda p, x: jax.vjp(layer, p, x), lambda back, g: back(g))


@table(LAYER, X)
def custom_vjp(p, x):
    return by_vjp(p, x) @ p["out"]


@table(LAYER, X)
def vmap_over_the_batch(p, x):
    return jax.vmap(layer, (None, 0))(p, x) @ p["out"]


# Nothing tells the members apart after this: it is one wide matrix as well.
@table({**LAYER, "w": ((3, 6, 8), MatrixAxes(1, (0, 2))), "b": ((3, 8), "bias")}, X)
def vmap_over_an_ensemble(p, x):
    own = {"w": p["w"], "b": p["b"]}
    return jax.vmap(layer, (0, None))(own, x).mean(0) @ p["out"]


@table(
    {**LAYER, "w": ((3, 6, 8), MatrixAxes(1, 2)), "b": ((3, 8), "bias")},
    floats(3, 4, 6),
)
def vmap_over_an_ensemble_with_its_inputs(p, x):
    own = {"w": p["w"], "b": p["b"]}
    return jax.vmap(layer)(own, x).mean(0) @ p["out"]


@table(
    {**LAYER, "w": ((6, 3, 8), MatrixAxes(0, 2)), "b": ((8, 3), "bias")},
    floats(4, 6, 3),
)
def vmap_over_other_axes(p, x):
    own = {"w": p["w"], "b": p["b"]}
    axes = ({"w": 1, "b": 1}, 2)
    return jax.vmap(layer, axes)(own, x).mean(0) @ p["out"]


@jax.custom_batching.custom_vmap
def batched_by_hand(w, x):
    return jnp.tanh(x @ w)


@batched_by_hand.def_vmap
def _(size, batched, w, x):
    return jnp.tanh(x @ w), True


@table(LAYER, X)
def custom_vmap(p, x):
    h = batched_by_hand(p["w"], x) + p["b"]
    return h @ p["out"]


@table(LAYER, X)
def linear_call(p, x):
    def product(w, x):
        return x @ w

    def transpose(w, y):
        return y @ w.T

    h = jax.custom_derivatives.linear_call(product, transpose, p["w"], x)
    return jnp.tanh(h + p["b"]) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, X)
def gradients_in_the_forward_pass(p, x):
    def energy(x):
        return jnp.square(jnp.tanh(x @ p["w"])).sum()

    return jnp.tanh(jax.grad(energy)(x) @ p["w"]) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, X)
def tangents_in_the_forward_pass(p, x):
    h, t = jax.jvp(lambda x: jnp.tanh(x @ p["w"]), (x,), (jnp.ones_like(x),))
    return (h * t) @ p["out"]


def mesh(*kinds):
    kinds = kinds or (AxisType.Auto,)
    return jax.make_mesh((2,), ("model",), kinds, devices=jax.devices()[:2])


@table(LAYER, X)
def tensor_parallel(p, x):
    def local(w, b, out, x):
        h = jnp.tanh(x @ w + b)
        return lax.psum(h @ out, "model")

    specs = (P(None, "model"), P("model"), P("model"), P())
    run = jax.shard_map(local, mesh=mesh(), in_specs=specs, out_specs=P())
    return run(p["w"], p["b"], p["out"], x)


@table(LAYER, X)
def data_parallel(p, x):
    def local(p, x):
        return lax.pmean(layer(p, x) @ p["out"], "model")

    specs = (P(), P("model"))
    return jax.shard_map(local, mesh=mesh(), in_specs=specs, out_specs=P())(p, x)


@table(LAYER, X)
def gathered_parameters(p, x):
    def local(p, x):
        w = lax.all_gather(p["w"], "model", tiled=True)
        h = jnp.tanh(x @ w + p["b"])
        h = lax.pmax(h, "model") + lax.pmin(h, "model")
        return lax.ppermute(h, "model", [(0, 1), (1, 0)]) @ p["out"]

    own = {"w": P("model"), "b": P(), "out": P()}
    return jax.shard_map(
        local, mesh=mesh(), in_specs=(own, P("model")), out_specs=P("model")
    )(p, x)


@table(LAYER, X)
def scattered_sums(p, x):
    def local(p, x):
        h = jnp.tanh(lax.psum_scatter(x @ p["w"], "model", tiled=True) + p["b"])
        return h @ p["out"]

    own = {"w": P("model"), "b": P(), "out": P()}
    return jax.shard_map(
        local, mesh=mesh(), in_specs=(own, P(None, "model")), out_specs=P("model")
    )(p, x)


@table(LAYER, X)
def gathered_and_sent_to_all(p, x):
    def local(p, x):
        w = lax.pbroadcast(lax.all_gather(p["w"], "model", tiled=True), ("model",), 0)
        h = lax.all_gather(
            jnp.tanh(x @ w + p["b"]), "model", tiled=True, to="invarying"
        )
        return h @ p["out"]

    own = {"w": P("model"), "b": P(), "out": P()}
    return jax.shard_map(local, mesh=mesh(), in_specs=(own, P("model")), out_specs=P())(
        p, x
    )


@table(LAYER, X)
def unchecked_shard_map(p, x):
    def local(p, x):
        return lax.psum(layer(p, x) @ p["out"], "model")

    return jax.shard_map(
        local, mesh=mesh(), in_specs=(P(), P("model")), out_specs=P(), check_vma=False
    )(p, x)


@table(LAYER, X)
def constrained_shardings(p, x):
    h = lax.with_sharding_constraint(layer(p, x), NamedSharding(mesh(), P("model")))
    return h @ p["out"]


@table(LAYER, X)
def explicit_shardings(p, x):
    with jax.sharding.use_abstract_mesh(mesh(AxisType.Explicit).abstract_mesh):
        w = jax.sharding.reshard(p["w"], P(None, "model"))
        return jnp.tanh(x @ w + p["b"]) @ p["out"]


@table({"w": ((6, 8), "undecided"), **OUT}, X)
def kernel(p, x):
    def body(x, w, h):
        h[...] = x[...] @ w[...]

    shape = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    h = pl.pallas_call(body, out_shape=shape, interpret=True)(x, p["w"])
    return jnp.tanh(h) @ p["out"]


@table({"w": ((6, 6), "undecided"), **OUT, "up": ((6, 8), IN_OUT)}, X)
def linear_solve(p, x):
    def matvec(v):
        return p["w"] @ v

    solved = lax.custom_linear_solve(
        matvec, x[0], lambda f, b: b / 2, lambda f, b: b / 2
    )
    return jnp.tanh(solved @ p["up"]) @ p["out"]


@table({"w": ((6, 6), "undecided"), "up": ((6, 8), IN_OUT), **OUT}, X)
def cayley_map(p, x):
    skew = p["w"] - p["w"].T
    rotation = jnp.linalg.solve(jnp.eye(6) + skew, jnp.eye(6) - skew)
    return jnp.tanh(x @ rotation @ p["up"]) @ p["out"]


@table({"w": ((6, 8), "undecided"), **OUT}, X)
def callback(p, x):
    shape = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    h = jax.pure_callback(lambda x, w: x @ w, shape, x, p["w"])
    return jnp.tanh(h) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, X)
def a_primitive_without_a_rule_on_activations(p, x):
    h = jnp.cumsum(jnp.tanh(x @ p["w"]), 0)
    return jnp.abs(jnp.fft.fft(h)) @ p["out"]
