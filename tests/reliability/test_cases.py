"""37 ways in which Optax's own Muon 0.2.8 fails, each tried on ours: F1 to F37.

No NaN, no silence, no unclear words.
"""

import collections
import pickle
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho import MatrixAxes, checkpoints, layouts, orthogonalizers
from optax_ortho.orthogonalizers import NewtonSchulz
from optax_ortho.testing import assert_close, assert_same_types, random_like
from tests.reliability.bar_misuse import misuses
from tests.reliability.bar_numbers import b19, difference, finite, named, step
from tests.reliability.bar_places import b11, golden_difference, new_mesh
from tests.reliability.bar_programs import b8, b15, b24
from tests.reliability.subjects import MUON, OURS, SHORT
from tests.rows import ONE_STEP, RATE, new_params

LABELS = {"dense/kernel": "matrix", "bias": "bias"}
SHAPES = {"dense": {"kernel": (16, 6)}, "bias": (6,)}


def muon(labels=LABELS, **arguments):
    arguments = {"orthogonalizer": ONE_STEP, "labels": labels, **arguments}
    return optax_ortho.muon(RATE, **arguments)


TX = muon()  # One object, so that its compiled steps are shared.


def params_of(dtype=jnp.float32):
    return new_params(SHAPES, dtype)


def scaled(tree, factor):
    return jax.tree.map(lambda x: (x * factor).astype(x.dtype), tree)


def kernel_of(tree):
    return np.asarray(tree["dense"]["kernel"], np.float64)


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return nn.Dense(6)(nn.LayerNorm()(x)), None


def test_f1_norms_of_a_scanned_stack_are_no_matrices():
    stack = nn.scan(
        Scanned, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
    )
    x = jnp.ones((2, 6))
    params = stack().init(jax.random.key(0), x, None)["params"]
    tx = optax_ortho.muon(RATE, labels=optax_ortho.label(stack(), x, None))
    groups = {row[0]: row[4] for row in optax_ortho.summary(tx, params).groups}
    assert groups == {"matrix": 1, "other": 3}


def test_f2_a_large_float16_gradient_is_not_lost():
    params = new_params({"kernel": (256, 64)}, jnp.float16)
    updates, _ = step(muon({"kernel": "matrix"}), scaled(params, 1e3), params)
    rms = np.sqrt(np.mean(np.square(np.asarray(updates["kernel"], np.float64))))
    assert rms > 1e-3


@pytest.mark.parametrize("factor", [0.0, 1e-6, 1e-4])
def test_f3_a_small_float16_gradient_gives_no_nan(factor):
    params = params_of(jnp.float16)
    updates, state = step(TX, scaled(random_like(params), factor), params)
    finite((updates, state), "float16")
    biggest = max(np.abs(leaf).max() for leaf in named(updates).values())
    assert biggest < 3 * RATE and (biggest > 0) == (factor > 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("exponent", [-100, 60, 120])  # 1e-30, 1e18, 1e36.
def test_f4_f5_any_scale_gives_the_same_step(dtype, exponent):
    params = params_of(dtype)
    gradient = random_like(params)
    expected, _ = step(TX, gradient, params)
    updates, _ = step(TX, scaled(gradient, 2.0**exponent), params)
    # A power of two rounds nothing.
    np.testing.assert_array_equal(kernel_of(updates), kernel_of(expected))


def test_f4_a_spike_leaves_every_state_finite():
    params = params_of()
    _, state = step(TX, scaled(random_like(params), 1e30), params)
    finite(state, "the state after 1e30")


def test_f6_one_nan_is_forgotten():
    params, gradient = params_of(), random_like(params_of())
    bad = {
        **gradient,
        "dense": {"kernel": gradient["dense"]["kernel"].at[0].set(np.nan)},
    }
    updates, state = step(TX, bad, params)
    assert not kernel_of(updates).any() and named(updates)["bias"].all()
    updates, state = jax.jit(TX.update)(gradient, state, params)
    finite((updates, state), "the next step")
    assert kernel_of(updates).any()


def test_f7_the_fourth_bad_step_is_skipped_too():
    params = params_of()
    tx = optax.apply_if_finite(TX, 2)
    bad, state = scaled(params, np.nan), None
    state = tx.init(params)
    for _ in range(4):
        updates, state = jax.jit(tx.update)(bad, state, params)
    finite((updates, state), "the fourth bad step")


def test_f8_a_part_is_not_taken_for_a_matrix():
    assert b11(SHORT) == "refused"


# A checkpoint is of a whole optimizer with its default arguments, so each is compiled.
@pytest.mark.slow
@pytest.mark.parametrize("subject", OURS, ids=str)
def test_f9_the_checkpoint_of_the_release_loads(subject):
    version, _ = golden_difference(subject)
    assert version == "v0.1.0"


def test_f10_new_coefficients_count_after_a_restore():
    params = params_of()
    old, new = TX, muon(orthogonalizer=NewtonSchulz("polar_express", steps=2))
    state = checkpoints.from_flat(
        new, params, checkpoints.to_flat(step(old, random_like(params), params)[1])
    )
    before, _ = jax.jit(old.update)(params, state, params)
    after, _ = jax.jit(new.update)(params, state, params)
    assert difference(after, before) > 1e-2


def test_f11_a_counter_is_refused_unless_it_has_no_gradient():
    params = {**params_of(), "n": jnp.arange(3)}
    tx = muon({**LABELS, "n": "scalar"})
    with pytest.raises(TypeError, match="'n'.*int32"):
        tx.update(params, tx.init(params), params)
    gradient = jax.grad(lambda p: jnp.sum(p["bias"] ** 2), allow_int=True)(params)
    updates, _ = step(tx, gradient, params)
    assert updates["n"].dtype == jnp.int32 and not updates["n"].any()
    moved = optax.apply_updates(params, updates)
    assert moved["n"].tolist() == [0, 1, 2]


def test_f12_the_groups_are_shown_and_have_their_own_settings():
    shown = str(optax_ortho.summary(muon(adamw_learning_rate=1e-3), params_of()))
    assert "0.001" in shown and "adamw" in shown
    assert "no learning rate of its own" in str(optax_ortho.summary(TX, params_of()))


def test_f13_an_explicit_mesh_is_no_error():
    mesh = new_mesh((4, 2), ("x", "y"), AxisType.Explicit)
    params = {"dense": {"kernel": params_of()["dense"]["kernel"]}}
    tx = muon({"dense/kernel": "matrix"})
    expected, _ = step(tx, params, params)
    with jax.set_mesh(mesh):
        there = jax.device_put(params, NamedSharding(mesh, P("x", "y")))
        updates, _ = step(tx, there, there)
    assert (
        difference(jax.device_get(updates), expected) < 1e-5
    )  # Another order of sums.


COLLECTIVE = re.compile(
    r" (all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute)"
    r"(?:-start)?\("
)


def sharded_rows(kind):
    mesh = new_mesh((8,), ("x",), kind)
    rows = NamedSharding(mesh, P("x"))
    return mesh, jax.device_put({"kernel": params_of()["dense"]["kernel"]}, rows)


def test_f14_rows_in_shards_travel_once():
    mesh, params = sharded_rows(AxisType.Auto)
    # The five steps that made five times three gathers of Optax's.
    layout = layouts.sharded(params)
    tx = optax_ortho.muon(RATE, labels={"kernel": "matrix"}, layout=layout)
    with jax.set_mesh(mesh):
        state = tx.init(params)
        program = jax.jit(tx.update).lower(params, state, params).compile().as_text()
    found = collections.Counter(COLLECTIVE.findall(program))
    # There and back, and the count of the guard.
    assert found["all-to-all"] == 2 and found.total() <= 3, found


def test_f15_mixed_dtypes_scan():
    params = params_of(jnp.bfloat16)
    gradient, before = random_like(params_of()), TX.init(params)

    def body(state, _):
        return TX.update(gradient, state, params)[1], None

    after, _ = jax.eval_shape(lambda: jax.lax.scan(body, before, length=2))
    assert_same_types(after, jax.eval_shape(lambda: before), "the state")


def test_f16_steps_stay_static_under_inject_hyperparams():
    assert b8(SHORT) == "1 trace, no while"


@pytest.mark.parametrize("prescale", ["frobenius", "schatten4", "aol"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
def test_f17_f18_every_prescale_takes_every_dtype(prescale, dtype):
    method = getattr(orthogonalizers, prescale)
    method = NewtonSchulz(steps=1, prescale=method, unsafe=True)
    params = new_params({"kernel": (8, 6)}, dtype)
    tx = muon({"kernel": "matrix"}, orthogonalizer=method)
    finite(step(tx, params, params), prescale)


@pytest.mark.parametrize("prescale", ["schatten4", "aol"])
def test_f19_every_prescale_is_free_of_scale(prescale):
    method = NewtonSchulz(prescale=getattr(orthogonalizers, prescale))
    x, one = random_like(jnp.ones((8, 6))), jax.jit(method.orthogonalize)
    for factor in (1e-30, 1e-12, 1e12, 1e30):
        # A factor that is no power of two rounds.
        assert_close(one(factor * x), one(x), 1e-4, prescale)


def test_f20_every_name_in_the_message_exists():
    with pytest.raises(ValueError, match="no table 'muon'") as error:
        NewtonSchulz("muon")
    names = str(error.value).split("there are ")[1].rstrip(".").split(", ")
    assert all(NewtonSchulz(name, unsafe=True) for name in names)


def test_f21_a_step_is_exported_with_its_state():
    assert b15(SHORT).endswith("kB")


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (2, 0, 4)])
def test_f22_an_empty_leaf_steps(shape):
    params = {"empty": jnp.zeros(shape)}
    updates, _ = step(muon({"empty": MatrixAxes()}), params, params)
    assert updates["empty"].shape == shape


def test_f23_a_python_number_is_a_leaf():
    params, tx = {"scale": 1.0}, muon({"scale": "scalar"})
    updates, _ = tx.update({"scale": 0.5}, tx.init(params), params)
    assert abs(float(updates["scale"])) == pytest.approx(RATE, rel=1e-3)


@pytest.mark.parametrize("name", misuses(MUON))
def test_f24_to_f28_misuse_is_refused_in_clear_words(name):
    misuse, words = misuses(MUON)[name]
    with pytest.raises((ValueError, TypeError)) as error:
        misuse()
    assert len(str(error.value)) < 500
    assert all(word in str(error.value) for word in words), str(error.value)


def test_f26_the_axes_of_optax_are_checked_too():
    axes = MatrixAxes.from_optax(optax.contrib.MuonDimensionNumbers(3, 1))
    with pytest.raises(ValueError, match="dense/kernel"):
        muon({**LABELS, "dense/kernel": axes}).init(params_of())


def test_f29_a_double_rate_leaves_single_updates():
    with jax.enable_x64(True):
        tx = optax_ortho.muon(np.float64(0.1), labels=LABELS, orthogonalizer=ONE_STEP)
        updates, _ = step(tx, params_of(), params_of())
    assert {str(x.dtype) for x in named(updates).values()} == {"float32"}


def test_f30_fields_are_found_by_their_documented_names():
    state = TX.init(params_of())
    for name in ("skipped", "direction", "momentum", "trust_region"):
        assert optax.tree.get(state, name) is not None


def test_f31_a_flattened_tree_is_no_silent_adamw():
    with pytest.raises(ValueError, match="No label"):
        optax.flatten(TX).init(params_of())
    unlabelled = optax.flatten(optax_ortho.muon(RATE))
    assert optax_ortho.summary(unlabelled, params_of()).orthogonalized == 0
    assert "No leaf is orth" in str(optax_ortho.summary(unlabelled, params_of()))


def test_f32_a_state_lies_where_its_parameters_do():
    tx = muon({"kernel": "matrix"})
    for kind, init in (
        (AxisType.Auto, tx.init),
        (AxisType.Explicit, tx.init),
        (AxisType.Explicit, jax.jit(tx.init)),
    ):
        mesh, params = sharded_rows(kind)
        with jax.set_mesh(mesh):
            mu = optax.tree.get(init(params), "momentum").mu["kernel"]
        assert mu.sharding.is_equivalent_to(params["kernel"].sharding, 2), kind


def test_f33_strict_promotion_is_no_error():
    tx = muon(weight_decay=0.1)
    for dtype in (jnp.float32, jnp.bfloat16):
        params = params_of(dtype)
        with jax.numpy_dtype_promotion("strict"):
            updates, _ = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)
        assert_same_types(updates, jax.eval_shape(lambda p: p, params), "the update")


def test_f34_the_update_has_a_derivative_at_zero():
    assert b19(SHORT) == "random and 0"


def test_f35_float0_is_passed_over():
    params = {"gain": jnp.ones(()), "key": jax.random.key(0)}
    tx = muon({"gain": "scalar", "key": "scalar"})
    nothing = np.zeros((), jax.dtypes.float0)
    gradient = {"gain": params["gain"], "key": nothing}
    updates, _ = tx.update(gradient, tx.init(params), params)
    assert updates["key"] is nothing and updates["gain"] < 0


@pytest.mark.parametrize("name", ["muon", "am_sgd", "am_adamw", "mkor"])
def test_f36_a_recipe_is_pickled_as_its_call(name):
    tx = getattr(optax_ortho, name)(0.1)
    again = pickle.loads(pickle.dumps(tx))
    params = {"kernel": jnp.ones((4, 6))}
    assert_close(again.init(params), tx.init(params), 0, "a state")


def test_f37_temporary_memory_is_bounded():
    assert float(b24(MUON).split()[0]) < 2.5
