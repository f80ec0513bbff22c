"""Every rule has a program, and a primitive without one is reported, not guessed."""

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from optax_ortho.labels import label
from optax_ortho.labels.program import read
from optax_ortho.labels.program.rules import PRIMITIVES, RULES
from optax_ortho.matrices import MatrixAxes
from tests.labels.program.test_roles import CASES

# Rules without a program here, and why.
EXCUSED = {
    "all_gather_reduced": "of gradients, under explicit shardings",
    "unreduced_reduce_scatter": "of gradients, under explicit shardings",
}
NEWER = {"stack", "unstack"}  # Primitives that the oldest JAX does not have.


def primitives(jaxpr):
    """The names of the primitives in a program, and in the programs that it calls."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                yield from primitives(inner)


def is_jaxpr(value):
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def test_every_rule_has_a_program():
    emitted = set()
    with jax.numpy_rank_promotion("allow"):
        for case in CASES.values():
            traced = jax.make_jaxpr(case.program)(case.params, *case.inputs)
            emitted.update(primitives(traced))
    missing = set(RULES) - emitted
    if jax.__version_info__ < (0, 10, 1):
        missing -= NEWER
    assert missing == set(EXCUSED)


def test_a_primitive_has_one_rule():
    names = " ".join(PRIMITIVES.values()).split()
    assert len(names) == len(set(names))


novelty = core.Primitive("novelty")


@novelty.def_abstract_eval
def _(x):
    return x


PARAMS = {
    "b": jnp.ones(8),
    "out": jnp.ones((8, 3)),
    "w": jnp.ones((6, 8)),
}
X = jnp.ones((2, 6))


def test_a_weight_in_a_new_primitive_is_undecided():
    def model(p, x):
        return (
            jnp.tanh(x @ novelty.bind(p["w"]) + novelty.bind(p["b"])[None]) @ p["out"]
        )

    b, out, w = read(model, PARAMS, X)
    assert (w.role, out.role) == ("undecided", "head")
    assert w.notes == ("used inside novelty, which has no rule",)
    assert b.role == "vector"  # No matrix, whatever was done with it.
    with pytest.raises(ValueError) as error:
        label(model, PARAMS, X)
    assert "'w' (6, 8)" in str(error.value) and "novelty" in str(error.value)


def test_a_new_primitive_on_activations_changes_nothing():
    def model(p, x):
        h = novelty.bind(novelty.bind(x) @ p["w"])
        return novelty.bind(jnp.tanh(novelty.bind(h + p["b"][None])) @ p["out"])

    roles = [reading.role for reading in read(model, PARAMS, X)]
    assert roles == ["bias", "head", "matrix"]


def test_an_override_answers_for_a_new_primitive():
    def model(p, x):
        return jnp.tanh(x @ novelty.bind(p["w"]) + p["b"][None]) @ p["out"]

    labels = label(model, PARAMS, X, overrides={"w": MatrixAxes(0, 1)})
    assert [row[2].role for row in labels] == ["bias", "head", "matrix"]
