"""Muon: the box in float64, `optax.contrib.muon`, and every argument."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_ortho
from optax_ortho import MatrixAxes, muon, scale_by_muon
from optax_ortho.momentum import bias_corrected, heavy_ball
from optax_ortho.optimizers.muon import MuonState
from optax_ortho.orthogonalizers import NewtonSchulz
from optax_ortho.testing import assert_close, random_like
from optax_ortho.trust_region import JORDAN, SPECTRAL, by_shape, match_rms
from tests.optimizers.training import gradients_of, trained
from tests.reference import muon as reference
from tests.rows import LABELS, MODEL, ONE_STEP, new_params
from tests.training import WITH_CARE

KERNEL = {"kernel": (4, 6)}


# The algorithm box


@pytest.mark.parametrize(
    "weight_decay", [pytest.param(0.0, marks=pytest.mark.slow), 0.1]
)
def test_ten_steps_are_the_box(weight_decay):
    params = new_params({"wide": (4, 6), "tall": (7, 3), "square": (5, 5)})
    tx = muon(0.1, weight_decay=weight_decay)
    actual = trained(tx, params)
    for name, w in params.items():
        expected = reference.muon(
            np.asarray(w, np.float64),
            gradients_of(params, name),
            learning_rate=0.1,
            weight_decay=weight_decay,
        )
        # Float32 in a polynomial whose slope at zero is 3.4^5 = 485.
        assert_close(actual[name], expected, 1e-5, name)


def test_other_leaves_are_adamw():
    params = new_params({"bias": (6,), "gain": (), "table": (5, 3)})
    tx = muon(0.1, adamw_learning_rate=0.03, adamw_weight_decay=0.1)
    actual = trained(tx, params)
    for name, w in params.items():
        expected = reference.adamw(
            np.asarray(w, np.float64),
            gradients_of(params, name),
            learning_rate=0.03,
            weight_decay=0.1,
        )
        assert_close(actual[name], expected, 1e-5, name)  # Float32 roundings.


def test_the_update_has_the_promised_rms():
    params = new_params({"a": (8, 16), "b": (24, 4)})
    tx = muon(0.5, orthogonalizer=NewtonSchulz("polar_express_8"))
    updates, _ = jax.jit(tx.update)(random_like(params), tx.init(params))
    for u in updates.values():
        assert float(jnp.sqrt(jnp.mean(u**2))) == pytest.approx(0.2 * 0.5, rel=1e-3)


# optax.contrib.muon

NUMBERS = {
    "conv": optax.contrib.MuonDimensionNumbers((0, 1, 2), 3),
    "dense": {"bias": None, "kernel": optax.contrib.MuonDimensionNumbers(0, 1)},
    "gain": None,
    "stack": optax.contrib.MuonDimensionNumbers(1, 2),
    "table": None,
}


def from_numbers(path, leaf):
    """The labels that `NUMBERS` mean, as a function."""
    numbers = NUMBERS
    for name in path.split("/"):
        numbers = numbers[name]
    return "vector" if numbers is None else MatrixAxes.from_optax(numbers)


def as_contrib(orthogonalizer=None, nesterov=True, **kwargs):
    """Muon with the arguments that make it `optax.contrib.muon`."""
    if orthogonalizer is None:
        orthogonalizer = NewtonSchulz(eps=1e-8)
    adam = optax.nadamw if nesterov else optax.adamw
    arguments = {
        "momentum": bias_corrected(0.95, nesterov=nesterov),
        "trust_region": JORDAN,
        "labels": from_numbers,
        "fallback": adam(0.1, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0),
    }
    return muon(0.1, orthogonalizer=orthogonalizer, **{**arguments, **kwargs})


def contrib(**kwargs):
    return optax.contrib.muon(0.1, muon_weight_dimension_numbers=NUMBERS, **kwargs)


def only_matrices(params):
    return jax.tree.map(lambda x: x.ndim == 2, params)


DECAY = {"weight_decay": 0.1, "weight_decay_mask": only_matrices}
VARIANTS = {
    "default": ({}, {}),
    "dion": (
        {"orthogonalizer": NewtonSchulz("you5", eps=1e-8)},
        {"ns_coeffs": "dion"},
    ),
    "no nesterov": ({"nesterov": False}, {"nesterov": False}),
    "consistent_rms": (
        {"trust_region": match_rms(0.2), "weight_decay": 0.1},
        {"consistent_rms": 0.2, "weight_decay": 0.1},
    ),
    "masked decay": (DECAY, DECAY),
    "a tree of labels": ({"labels": LABELS}, {}),
}
SLOW = {"no nesterov", "masked decay", "a tree of labels"}


@pytest.mark.parametrize(
    "ours, theirs",
    [
        pytest.param(*case, marks=pytest.mark.slow if name in SLOW else (), id=name)
        for name, case in VARIANTS.items()
    ],
)
def test_ten_steps_are_those_of_optax(ours, theirs):
    params = new_params(MODEL)
    actual = trained(as_contrib(**ours), params, compiler_options=WITH_CARE)
    expected = trained(contrib(**theirs), params, compiler_options=WITH_CARE)
    # Two float32 programs for one polynomial, over ten steps.
    assert_close(actual, expected, 1e-6, "optax.contrib.muon")


# What the tests of optax.contrib.muon ask of its internals, asked from outside.


def first_update(params, **kwargs):
    tx = muon(0.1, **{"orthogonalizer": NewtonSchulz(), **kwargs})
    return jax.jit(tx.update)(params, tx.init(params))[0]


# How one 10 x 12 matrix may be stored: there, back, and what says so.
STORED = {
    "itself": (lambda w: w, lambda u: u, MatrixAxes((0,), (1,))),
    "transposed": (lambda w: w.T, lambda u: u.T, MatrixAxes((1,), (0,))),
    "two outputs": (
        lambda w: w.reshape(10, 3, 1, 4).transpose(3, 2, 0, 1),
        lambda u: u.transpose(2, 3, 1, 0).reshape(10, 12),
        MatrixAxes(fan_in=(2,), fan_out=(3, 0)),
    ),
    "two inputs": (
        lambda w: w.reshape(2, 1, 5, 12).transpose(2, 3, 1, 0),
        lambda u: u.transpose(3, 2, 0, 1).reshape(10, 12),
        MatrixAxes(fan_in=(3, 0), fan_out=(1,)),
    ),
}


def test_axes_say_how_a_matrix_is_stored_and_change_nothing():
    w = random_like(jnp.zeros((10, 12)))
    stored = {name: there(w) for name, (there, _, _) in STORED.items()}
    labels = {name: axes for name, (_, _, axes) in STORED.items()}
    updates = first_update(stored, labels=labels)
    expected = first_update({"w": w})["w"]
    for name, (_, back, _) in STORED.items():
        assert_close(back(updates[name]), expected, 1e-5, name)


def momentum_of(state):
    recipe = state.inner.inner_states["matrix"].inner_state
    return recipe.direction.momentum.mu


@pytest.mark.parametrize(
    "labels, matrices",
    [
        (None, {"w1/a", "w2/c"}),
        ({"w1/**": "vector", "**": "matrix"}, {"w2/c"}),
        ({"w1/**": "matrix", "**": "vector"}, {"w1/a"}),
        (lambda path, leaf: "matrix" if path == "w1/a" else "bias", {"w1/a"}),
        ({"w1": {"a": "vector"}, "w2": {"c": MatrixAxes((1,), (0,))}}, {"w2/c"}),
        ({"**": "vector"}, set()),
    ],
    ids=["None", "w1 is none", "w2 is none", "function", "tree", "nothing"],
)
def test_only_matrices_have_a_momentum_of_muon(labels, matrices):
    params = {"w1": {"a": jnp.ones((2, 3))}, "w2": {"c": jnp.ones((3, 4))}}
    state = muon(0.1, labels=labels).init(params)
    mu = momentum_of(state)
    kept = {
        f"{outer}/{inner}"
        for outer, branch in mu.items()
        for inner, leaf in branch.items()
        if not isinstance(leaf, optax.MaskedNode)
    }
    assert kept == matrices


@pytest.mark.parametrize("shape", [(100, 100), (100, 50), (50, 100)], ids=str)
def test_the_update_is_nearly_orthogonal(shape):
    params = {"w": random_like(jnp.zeros(shape), seed=42)}
    tx = muon(1.0, trust_region=optax_ortho.trust_region.UNSCALED)
    updates, _ = jax.jit(tx.update)(params, tx.init(params))
    before, after = (np.linalg.svd(t["w"], compute_uv=False) for t in (params, updates))
    # Five steps lift what is not much smaller than the norm, and nothing goes far up.
    lifted = after[before > 0.01 * np.linalg.norm(before)]
    assert len(lifted) > 40
    assert 0.6 < lifted.min() and after.max() < 1.25


def test_a_multiple_of_the_identity_becomes_one():
    params = {"w": 2.0 * jnp.eye(8)}
    update = first_update(params)["w"]
    np.testing.assert_allclose(update / update[0, 0], jnp.eye(8), atol=1e-6)


def test_another_preset_is_another_update():
    params = new_params({"w": (8, 8)})
    tx = muon(0.1, orthogonalizer=NewtonSchulz("polar_express"))
    other, _ = jax.jit(tx.update)(params, tx.init(params))
    assert float(jnp.abs(other["w"] - first_update(params)["w"]).max()) > 1e-4


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_complex_target_is_reached(nesterov):
    target = jnp.array([[1.0 + 2.0j, 0.0], [-1.0 + 1.0j, 1.0 - 3.0j]])
    tx = muon(0.05, momentum=heavy_ball(0.9, nesterov))

    def body(carry, _):
        w, state = carry
        updates, state = jax.jit(tx.update)(w - target, state)
        return (w + updates, state), None

    w = jnp.zeros((2, 2), jnp.complex64)
    (w, _), _ = jax.lax.scan(body, (w, tx.init(w)), length=1000)
    np.testing.assert_allclose(w, target, atol=0.05)


# Arguments

DEFAULT = scale_by_muon(orthogonalizer=ONE_STEP)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"beta": 0.5},
        {"momentum": heavy_ball(0.95)},
        {"orthogonalizer": NewtonSchulz()},
        {"trust_region": JORDAN},
        {"mu_dtype": jnp.bfloat16},
        {"axes": lambda path, leaf: MatrixAxes((-1,), (-2,)), "trust_region": SPECTRAL},
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_each_argument_makes_another_step(kwargs):
    params = new_params(KERNEL)
    kwargs = {"orthogonalizer": ONE_STEP, **kwargs}
    step = trained(scale_by_muon(**kwargs), params, steps=2)
    default = trained(DEFAULT, params, steps=2)
    assert float(jnp.abs(step["kernel"] - default["kernel"]).max()) > 1e-4


def test_the_learning_rate_may_be_a_schedule():
    params = new_params(KERNEL)
    schedule = optax.linear_schedule(0.1, 0.2, 1)
    tx = muon(schedule, orthogonalizer=ONE_STEP)
    state = tx.init(params)
    first, state = jax.jit(tx.update)(params, state)
    second, _ = jax.jit(tx.update)(params, state)
    assert_close(second, optax.tree.scale(2.0, first), 1e-5, "twice the rate")


def test_stages_are_handed_the_rate_of_the_step():
    rates = []

    def update(updates, state, params=None, **extra):
        rates.append(float(extra["learning_rate"]))
        return updates, state

    stage = optax.GradientTransformationExtraArgs(lambda params: (), update)
    schedule = optax.linear_schedule(0.1, 0.3, 2)
    tx = muon(schedule, orthogonalizer=ONE_STEP, trust_region=stage)
    params = new_params(KERNEL)
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(params, state)
    assert rates == pytest.approx([0.1, 0.2, 0.3])


def test_a_whole_stage_may_replace_the_trust_region():
    params = new_params(KERNEL)
    named, whole = (
        first_update(params, orthogonalizer=ONE_STEP, trust_region=stage)
        for stage in (SPECTRAL, by_shape(SPECTRAL))
    )
    assert_close(whole, named, 0, "a stage and its factor")


def test_decay_is_decoupled_and_follows_the_rate():
    params = new_params(MODEL)
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = muon(
        0.1,
        labels=LABELS,
        orthogonalizer=ONE_STEP,
        weight_decay=0.5,
        adamw_weight_decay=0.25,
    )
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
    matrices = {"conv", "kernel", "stack"}

    def expected(keys, w):
        return -0.1 * (0.5 if keys[-1].key in matrices else 0.25) * w

    expected = jax.tree_util.tree_map_with_path(expected, params)
    assert_close(updates, expected, 1e-6, "decay alone")


def test_the_decay_mask_covers_both_groups():
    params = new_params(MODEL)
    zeros = jax.tree.map(jnp.zeros_like, params)

    def mask(params):
        return jax.tree.map(lambda x: x.ndim == 2, params)

    tx = muon(
        0.1,
        labels=LABELS,
        orthogonalizer=ONE_STEP,
        weight_decay=0.5,
        adamw_weight_decay=0.5,
        weight_decay_mask=mask,
    )
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
    expected = jax.tree.map(lambda w, m: -0.05 * w * m, params, mask(params))
    assert_close(updates, expected, 1e-6, "masked decay")


def test_the_decay_mask_may_be_a_tree():
    params = new_params(KERNEL)
    tx = muon(0.1, weight_decay=0.5, weight_decay_mask={"kernel": False})
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
    assert not updates["kernel"].any()


def test_parameters_are_not_needed_without_decay():
    params = new_params(MODEL)
    tx = muon(0.1, labels=LABELS, orthogonalizer=ONE_STEP)
    alone, _ = jax.jit(tx.update)(params, tx.init(params))
    given, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert_close(alone, given, 0, "an update without parameters")


@pytest.mark.parametrize("role, leaf", [("bias", "bias"), ("embedding", "table")])
def test_a_fallback_of_one_role_leaves_the_others_to_adamw(role, leaf):
    params = new_params({"dense/bias": (6,), "table": (5, 4), "kernel": (4, 6)})
    fallback = {role: optax.sgd(1.0)}
    expected = first_update(params, orthogonalizer=ONE_STEP)
    updates = first_update(params, orthogonalizer=ONE_STEP, fallback=fallback)
    for name in params:
        wanted = -params[name] if name.endswith(leaf) else expected[name]
        assert_close(updates[name], wanted, 1e-6, name)


def test_a_fallback_may_freeze():
    params = new_params(MODEL)
    updates = first_update(
        params, labels=LABELS, orthogonalizer=ONE_STEP, fallback=optax.set_to_zero()
    )
    assert not updates["table"].any() and updates["stack"].any()


def test_the_state_names_its_stages():
    state = scale_by_muon(nonfinite="off").init(new_params(KERNEL))
    assert isinstance(state, MuonState)
    assert state._fields == ("momentum", "orthogonalize", "normalize", "trust_region")


def test_nothing_static_is_in_the_state():
    # A changed hyperparameter takes effect on an old state.
    params = new_params(KERNEL)
    state = muon(0.1, orthogonalizer=NewtonSchulz()).init(params)
    tx = muon(0.1, orthogonalizer=ONE_STEP)
    updates, _ = jax.jit(tx.update)(params, state)
    expected, _ = jax.jit(tx.update)(params, tx.init(params))
    assert_close(updates, expected, 0, "an old state")


def test_traced_hyperparameters():
    params = new_params(KERNEL)

    @jax.jit
    def step(learning_rate, beta, decay):
        tx = muon(learning_rate, beta, weight_decay=decay)
        return jax.jit(tx.update)(params, tx.init(params), params)[0]

    tx = muon(0.1, 0.9, weight_decay=0.2)
    expected, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert_close(step(0.1, 0.9, 0.2), expected, 1e-5, "traced numbers")


def test_it_trains_in_nnx_jit():
    model = nnx.Sequential(
        nnx.Linear(4, 8, rngs=nnx.Rngs(0)),
        nnx.relu,
        nnx.Linear(8, 2, rngs=nnx.Rngs(1)),
    )
    tx = muon(0.05, orthogonalizer=ONE_STEP, labels=optax_ortho.label(model))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    x, y = random_like(jnp.zeros((16, 4))), random_like(jnp.zeros((16, 2)), seed=1)

    @nnx.jit
    def step(model, optimizer):
        def loss_fn(model):
            return jnp.mean((model(x) - y) ** 2)

        loss, gradient = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, gradient)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_no_loop_depends_on_a_value_under_inject_hyperparams():
    params = new_params(KERNEL)
    tx = optax.inject_hyperparams(muon)(learning_rate=0.1)
    program = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
    assert "while[" not in str(program)


# Misuse


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"learning_rate": np.nan}, "learning_rate"),
        ({"beta": 1.0}, "beta"),
        ({"beta": -0.1}, "beta"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"adamw_learning_rate": -0.1}, "adamw_learning_rate"),
        ({"adamw_b1": 1.0}, "adamw_b1"),
        ({"adamw_b2": 1.5}, "adamw_b2"),
        ({"adamw_eps": -1.0}, "adamw_eps"),
        ({"adamw_weight_decay": -0.1}, "adamw_weight_decay"),
        ({"nonfinite": "skip"}, "nonfinite"),
        ({"fallback": {"matrix": optax.sgd(0.1)}}, "fallback"),
        ({"fallback": {"biases": optax.sgd(0.1)}}, "biases"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_impossible_values_are_refused_at_once(kwargs, message):
    with pytest.raises(ValueError, match=message):
        muon(**{"learning_rate": 0.1, **kwargs})


@pytest.mark.parametrize(
    "name", ["orthogonalizer", "labels", "weight_decay_mask", "layout", "mu_dtype"]
)
def test_functions_under_inject_hyperparams_name_the_way_out(name):
    def taken_for_a_schedule(count):
        return 1.0

    tx = optax.inject_hyperparams(muon)(0.1, **{name: taken_for_a_schedule})
    with pytest.raises(TypeError, match=f"static_args.*{name}"):
        tx.init(new_params(KERNEL))


@pytest.mark.parametrize(
    "labels, message",
    [
        ({"kernel": MatrixAxes((0,), (2,))}, "'kernel'.*out of range"),
        ({"kernel": "matrices"}, "kernel.*'matrices'"),
        ({"weights": "matrix"}, "kernel"),
    ],
    ids=["axes", "role", "path"],
)
def test_labels_that_do_not_fit_are_refused_at_init(labels, message):
    with pytest.raises(ValueError, match=message):
        muon(0.1, labels=labels).init(new_params(KERNEL))
