"""A recipe is its direction with a rate: one signature, one guard, one check."""

import importlib
import inspect
import re
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_ortho
from optax_ortho.guard import GuardState
from optax_ortho.recipes import matrices_else_fallback, recipe_of
from optax_ortho.recipes.arguments import DEFAULTS
from tests.reliability.subjects import OURS
from tests.rows import RECIPES

ALL = [*RECIPES, optax_ortho.mkor]
PARAMS = {"up": {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}}
STATISTICS = {"up": {"a": jnp.ones(4), "g": jnp.ones(6)}}
# A recipe takes these too, or decides them.
SHARED = {"axes", *DEFAULTS}


def parameters(function):
    return inspect.signature(function).parameters


def is_guard(node):
    return isinstance(node, GuardState)


def direction_of(recipe):
    return getattr(optax_ortho, f"scale_by_{recipe.__name__}")


def test_the_rows_have_all_recipes():
    names = set(optax_ortho.__all__)
    assert {f.__name__ for f in ALL} == {n for n in names if f"scale_by_{n}" in names}


def test_the_bar_has_all_recipes():
    assert {subject.name for subject in OURS} == {recipe.__name__ for recipe in ALL}


@pytest.mark.parametrize("recipe", ALL, ids=lambda f: f.__name__)
def test_the_signature_is_that_of_the_direction(recipe):
    """Names, order, kinds, defaults and types; a recipe may have further arguments."""
    theirs = parameters(direction_of(recipe))
    own = [p for p in parameters(recipe).values() if p.name not in SHARED]
    assert own[0].name == "learning_rate"
    expected = [p for p in theirs.values() if p.name not in SHARED]
    assert [p for p in own if p.name in theirs] == expected


@pytest.mark.parametrize("factory", [*ALL, *map(direction_of, ALL)])
def test_every_argument_is_documented_in_order(factory):
    arguments = inspect.getdoc(factory).split("Args:\n")[1].split("Returns:\n")[0]
    documented = re.findall(r"^  (\w+): \S", arguments, flags=re.MULTILINE)
    assert documented == list(parameters(factory))


@pytest.mark.parametrize("factory", ALL, ids=lambda f: f.__name__)
def test_the_examples_are_those_of_the_source(factory):
    source = inspect.getsource(importlib.import_module(factory.__module__))
    documentation = inspect.getdoc(factory)
    assert f">>> tx = optax_ortho.{factory.__name__}(" in documentation
    for line in documentation.split("Examples:\n")[1].splitlines():
        assert line.strip() in source


def test_an_argument_that_nothing_takes_is_refused():
    def scale_by_sign(power=1.0):
        """Signs.

        Args:
          power: ignored.
        """
        return optax.scale_by_sign()

    def sign(learning_rate, power=1.0, betta=0.9, **common): ...

    def build(name, direction, learning_rate, betta, **common): ...

    with pytest.raises(TypeError, match=r"build takes: \['betta'\]"):
        recipe_of(scale_by_sign)(sign)
    with pytest.raises(TypeError, match=r"documents: \['betta'\]"):
        recipe_of(scale_by_sign, build)(sign)


def test_a_recipe_refuses_an_unknown_argument():
    with pytest.raises(TypeError, match="unexpected keyword argument 'betta'"):
        optax_ortho.muon(0.1, betta=0.9)


@pytest.mark.parametrize("recipe", ALL, ids=lambda f: f.__name__)
def test_one_guard_and_one_check_of_inputs(recipe):
    tx = recipe(0.1)
    state = tx.init(PARAMS)
    checks = []

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_qualname == "checked.<locals>.update":
            checks.append(frame.f_code)

    def update(*args):
        sys.setprofile(profile)
        try:
            return tx.update(*args, statistics=STATISTICS)
        finally:
            sys.setprofile(None)

    jax.eval_shape(update, PARAMS, state, PARAMS)
    assert len(checks) == 1
    nodes = jax.tree.leaves(tuple(state), is_leaf=is_guard)
    assert is_guard(state) and not any(map(is_guard, nodes))


def test_a_label_is_computed_once():
    asked = []

    def labels(path, leaf):
        asked.append(path)
        return "matrix" if leaf.ndim == 2 else "bias"

    tx = optax_ortho.muon(0.1, labels=labels)
    state = tx.init(PARAMS)
    tx.update(PARAMS, state, PARAMS)
    assert sorted(asked) == ["up/bias", "up/kernel"]


def test_a_direction_is_built_without_a_learning_rate_group():
    """`matrices_else_fallback` takes any function of axes and layout."""
    tx = matrices_else_fallback(
        "sign", lambda axes, layout: optax.scale_by_sign(), 0.1, fallback=optax.sgd(1.0)
    )
    gradient = jax.tree.map(lambda x: jnp.full_like(x, 3.0), PARAMS)
    updates, _ = tx.update(gradient, tx.init(PARAMS), PARAMS)
    # A float32 0.1 is exact to 1e-8.
    assert jnp.allclose(updates["up"]["kernel"], -0.1, atol=1e-8)
    assert (updates["up"]["bias"] == -3.0).all()
