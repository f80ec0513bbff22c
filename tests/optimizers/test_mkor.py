"""MKOR: the released code in float64, biases, rules, the switch, and misuse."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ortho
from optax_ortho import MatrixAxes, Split, mkor, scale_by_mkor
from optax_ortho.kronecker import (
    Blend,
    Damped,
    KroneckerState,
    LossRate,
    MovingAverage,
    Printed,
    Reset,
    sherman_morrison,
)
from optax_ortho.testing import assert_close, random_like
from tests.reference import mkor as reference
from tests.rows import new_params

DENSE = {"up": {"kernel": (4, 6), "bias": (6,)}, "down": {"kernel": (7, 3)}}
SIZES = {"up": (4, 6), "down": (7, 3)}
ONE = {"up": DENSE["up"]}  # Enough for most, and compiled in half the time.


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def vectors(seed, sizes=None, batch=()) -> Any:
    """Random statistics, of layers of some sizes."""
    sizes = SIZES if sizes is None else sizes
    return random_like(
        {
            layer: {
                "a": jax.ShapeDtypeStruct((*batch, fan_in), jnp.float32),
                "g": jax.ShapeDtypeStruct((*batch, fan_out), jnp.float32),
            }
            for layer, (fan_in, fan_out) in sizes.items()
        },
        seed,
    )


def trained(tx, params, steps=10, **extra) -> tuple[Any, Any]:
    """Parameters and state after steps, gradients and statistics of other sizes."""
    state, step = tx.init(params), jax.jit(tx.update)
    for seed in range(steps):
        gradient = optax.tree.scale(10.0 ** (seed % 3), random_like(params, seed))
        updates, state = step(
            gradient, state, params, statistics=vectors(seed), **extra
        )
        params = optax.apply_updates(params, updates)
    return params, state


def kronecker(state) -> KroneckerState:
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, KroneckerState))
    return next(leaf for leaf in leaves if isinstance(leaf, KroneckerState))


def joint(layer):
    """Kernel over bias, in float64."""
    rows = [layer["kernel"]] + ([layer["bias"][None]] if "bias" in layer else [])
    return np.concatenate(rows).astype(np.float64)


# The algorithm box


def test_ten_steps_are_the_box():
    params = new_params(DENSE)
    actual, _ = trained(mkor(0.1, update_every=3), params)
    gradients = [
        optax.tree.scale(10.0 ** (t % 3), random_like(params, t)) for t in range(10)
    ]
    for name, w in params.items():
        expected = reference.mkor(
            joint(w),
            [joint(gradient[name]) for gradient in gradients],
            [
                [np.asarray(vectors(t)[name][key], np.float64) for key in "ag"]
                for t in range(10)
            ],
            learning_rate=0.1,
            bias="bias" in w,
            every=3,
        )
        assert_close(joint(actual[name]), expected, 1e-5, name)  # Float32 roundings.


def test_the_update_of_a_layer_has_the_promised_rms():
    params = new_params(ONE)
    before = joint(params["up"])
    after, _ = trained(mkor(0.5, update_every=1), params, steps=1)
    step = joint(after["up"]) - before
    assert np.sqrt(np.mean(step**2)) == pytest.approx(0.2 * 0.5, rel=1e-4)


def test_size_of_the_gradient_does_not_matter_once_factors_are_in_use():
    params = new_params(ONE)
    tx = scale_by_mkor(update_every=1)
    _, state = trained(tx, params, steps=3)
    # The momentum remembers sizes, so it starts anew.
    state = optax.tree.set(state, mu=optax.tree.zeros_like(params))
    step, gradient = jax.jit(tx.update), random_like(params)
    expected, _ = step(gradient, state, statistics=vectors(3))
    for size in (1e-30, 1e30, 1e37):
        scaled = optax.tree.scale(size, gradient)
        updates, _ = step(scaled, state, statistics=vectors(3))
        assert_close(updates, expected, 1e-4, f"{size} times the gradient")


# Layers


def test_a_stack_is_its_layers():
    stack = new_params({"up": {"kernel": (3, 4, 6), "bias": (3, 6)}})
    statistics = vectors(1, {"up": (4, 6)}, batch=(3,))
    tx = scale_by_mkor(update_every=1, base=optax.identity())

    def steps(params, gradient, statistics):
        state = tx.init(params)
        for _ in range(3):
            updates, state = jax.jit(tx.update)(gradient, state, statistics=statistics)
        return updates

    gradient = random_like(stack)
    together = steps(stack, gradient, statistics)
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], (stack, gradient, statistics))
        layer = jax.tree.map(lambda x, i=i: x[i], together)
        assert_close(layer, steps(*one), 1e-5, f"layer {i}")  # Float32 roundings.


@pytest.mark.parametrize(
    "kernel, bias, axes",
    [
        slow((4, 2, 3), (2, 3), MatrixAxes((0,), (1, 2)), id="heads"),
        slow((2, 2, 1, 6), (6,), MatrixAxes((0, 1, 2), (3,)), id="conv"),
        pytest.param((4, 3, 6), (6, 3), MatrixAxes((0,), (2,)), id="stack_inside"),
    ],
)
def test_a_kernel_of_any_shape_is_its_matrices(kernel, bias, axes):
    """Fold both by hand, and it is a Dense layer, or a stack of them."""
    params = new_params({"kernel": kernel, "bias": bias})
    stacked = len(kernel) - len(axes.fan_in + axes.fan_out) == 1
    order = (1, 0, 2) if stacked else range(len(kernel))
    folded = {
        "kernel": params["kernel"].transpose(order).reshape(*((3,) * stacked), 4, 6),
        "bias": params["bias"].T if stacked else params["bias"].reshape(6),
    }
    given = vectors(1, {"": (4, 6)}, batch=(3,) * stacked)[""]
    results = []
    for tree, axes_of in (
        (params, lambda path, leaf: axes),
        (folded, lambda path, leaf: MatrixAxes()),
    ):
        tx = scale_by_mkor(update_every=1, axes=axes_of)
        state = tx.init(tree)
        for _ in range(2):
            updates, state = jax.jit(tx.update)(tree, state, statistics=given)
        results.append(updates)
    kernel_update = results[0]["kernel"].transpose(order)
    assert_close(
        kernel_update.reshape(results[1]["kernel"].shape),
        results[1]["kernel"],
        1e-5,  # Float32 roundings.
        "the kernel",
    )
    bias_update = results[0]["bias"].T if stacked else results[0]["bias"]
    assert_close(bias_update.reshape(-1), results[1]["bias"].reshape(-1), 1e-5, "bias")


def test_a_fused_kernel_is_its_blocks():
    sizes = (2, 4)
    axes = MatrixAxes((0,), (1,), Split(1, sizes))
    params = new_params({"kernel": (5, 6), "bias": (6,)})
    given = vectors(1, {"": (5, 6)})[""]
    blocks, statistics = {}, {}
    for i, part in enumerate((slice(0, 2), slice(2, 6))):
        blocks[f"{i}"] = {
            "kernel": params["kernel"][:, part],
            "bias": params["bias"][part],
        }
        statistics[f"{i}"] = {"a": given["a"], "g": given["g"][part]}

    def steps(tree, axes_of, statistics):
        tx = scale_by_mkor(update_every=1, axes=axes_of)
        state = tx.init(tree)
        for _ in range(2):
            updates, state = jax.jit(tx.update)(tree, state, statistics=statistics)
        return updates

    fused = steps(params, lambda path, leaf: axes, given)
    apart = steps(blocks, lambda path, leaf: MatrixAxes(), statistics)
    for name in ("kernel", "bias"):
        expected = jnp.concatenate([apart[i][name] for i in "01"], axis=-1)
        assert_close(fused[name], expected, 1e-5, name)  # Float32 roundings.


@pytest.mark.parametrize("role, moves", [("bias", True), ("frozen", False)])
def test_a_bias_is_in_the_group_of_its_kernel(role, moves):
    params = new_params(DENSE)
    tx = mkor(
        0.1,
        labels={"**/kernel": "matrix", "**/bias": role},
        fallback=optax.set_to_zero(),
    )
    updates, _ = jax.jit(tx.update)(params, tx.init(params), statistics=vectors(0))
    assert bool(updates["up"]["bias"].any()) == moves
    assert updates["up"]["kernel"].any()


def test_a_head_is_left_to_the_fallback_with_its_bias():
    params = new_params(
        {"up": {"kernel": (4, 6)}, "head": {"kernel": (6, 2), "b": (2,)}}
    )
    tx = mkor(0.1, fallback=optax.sgd(1.0))
    updates, _ = jax.jit(tx.update)(params, tx.init(params), statistics=vectors(0))
    expected = jax.tree.map(jnp.negative, params["head"])
    assert_close(updates["head"], expected, 0, "plain gradients")


def test_statistics_may_stand_at_the_kernel():
    params = new_params({"up": (4, 6)})
    tx = mkor(0.1, update_every=1)
    given = {"up": vectors(0)["up"]}
    updates, _ = jax.jit(tx.update)(params, tx.init(params), statistics=given)
    assert updates["up"].any()


# Factors


def inverses(rule, vectors, stabilizer, dtype=jnp.float32):
    """The inverse factor of the inputs, after steps with some mean inputs."""
    size = vectors.shape[1]
    params = {"kernel": jnp.ones((size, 1))}
    tx = scale_by_mkor(
        rule=rule,
        stabilizer=stabilizer,
        update_every=1,
        factor_dtype=dtype,
        base=optax.identity(),
    )

    def body(state, v):
        given = {"a": v, "g": jnp.zeros(1)}
        _, state = tx.update(params, state, statistics=given)
        return state, kronecker(state).input_inverse["kernel"]

    return np.asarray(jax.lax.scan(body, tx.init(params), vectors)[1])


def random_vectors(steps, size=6, length=1.0):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, size))
    return length * x / np.linalg.norm(x, axis=1, keepdims=True)


def test_the_exact_rule_is_the_inverse_of_an_average():
    vs = random_vectors(8, length=3.0)
    found = inverses("ema", jnp.asarray(vs), Blend(threshold=1e6))
    moment = np.eye(6)
    for v, inverse in zip(vs, found, strict=True):
        moment = 0.95 * moment + 0.05 * np.outer(v, v)
        np.testing.assert_allclose(inverse, np.linalg.inv(moment), atol=1e-5)


def test_the_damped_rule_needs_no_stabilizer():
    vs = jnp.asarray(random_vectors(200, length=50.0))
    found = inverses("damped", vs, None)
    values = np.linalg.eigvalsh(found.astype(np.float64))
    # An eigenvalue of 1e-5 is known to the roundings of entries of size 1.
    assert values.min() > -1e-6 and values.max() < 1 + 1e-6
    assert values[1:, 0].max() < 0.01


def test_the_first_step_of_the_released_code_only_sets_the_identity():
    found = inverses("damped", jnp.asarray(random_vectors(2, length=3.0)), None)
    np.testing.assert_array_equal(found[0], np.eye(6))
    assert np.abs(found[1] - np.eye(6)).max() > 0.1


def test_the_printed_rule_amplifies_what_it_should_damp():
    vs = np.repeat(random_vectors(1, length=10.0), 20, axis=0)
    unit = vs[0] / 10
    loose = Blend(threshold=np.finfo(np.float32).max)
    printed, exact = (
        unit @ inverses(rule, jnp.asarray(vs), loose)[-1] @ unit
        for rule in ("printed", "ema")
    )
    # Above 1e6 a factor is not stepped any more; float64 gives 2.6e6.
    assert printed > 5e5 and exact == pytest.approx(0.0155, rel=1e-2)
    held = inverses("printed", jnp.asarray(vs), None)
    assert np.abs(held).max() < 10


@pytest.mark.parametrize("rule", ["ema", "printed"])
def test_factors_stay_bounded(rule):
    vs = jnp.asarray(random_vectors(400, length=5.0) * np.eye(6)[0])
    found = inverses(rule, vs, None)
    assert np.isfinite(found).all() and np.abs(found).max() < 5


def test_a_large_factor_resets_both_of_its_layer():
    params = {"kernel": jnp.ones((3, 2))}
    tx = scale_by_mkor(
        rule=(MovingAverage(0.3), Damped()), stabilizer=Reset(2.0), update_every=1
    )
    state, seen = tx.init(params), []
    for _ in range(4):
        given = {"a": jnp.zeros(3), "g": jnp.ones(2)}
        _, state = jax.jit(tx.update)(params, state, statistics=given)
        found = kronecker(state)
        seen.append((found.input_inverse["kernel"], found.output_inverse["kernel"]))
    # 1 at first; 1/0.3 is above 2, and resets the outputs at once, inputs next.
    assert [float(a[0, 0]) for a, _ in seen] == pytest.approx([1, 1 / 0.3, 1, 1 / 0.3])
    assert [float(g[0, 1]) for _, g in seen] == pytest.approx([0, 0, -1 / 3, 0])


def test_two_rules_make_the_older_code():
    # One side weights its vector by 0.05, and the other by its square.
    vs = random_vectors(3, size=2)
    params = {"kernel": jnp.ones((2, 2))}
    pair = (MovingAverage(), MovingAverage(weight=0.05**2))
    tx = scale_by_mkor(rule=pair, update_every=1, stabilizer=Blend())
    state, expected = tx.init(params), [np.eye(2), np.eye(2)]
    for v in vs:
        given = {"a": jnp.asarray(v), "g": jnp.asarray(v)}
        _, state = jax.jit(tx.update)(params, state, statistics=given)
        expected = [
            np.linalg.inv(0.95 * np.linalg.inv(j) + w * np.outer(v, v))
            for j, w in zip(expected, (0.05, 0.05**2), strict=True)
        ]
    found = kronecker(state)
    assert_close(found.input_inverse["kernel"], expected[0], 1e-5, "inputs")
    assert_close(found.output_inverse["kernel"], expected[1], 1e-5, "outputs")


def test_factors_step_when_they_are_due():
    params, counts = new_params(ONE), []
    tx = scale_by_mkor(update_every=3, warmup_steps=2)
    state = tx.init(params)
    for t in range(8):
        before = kronecker(state)
        _, state = jax.jit(tx.update)(params, state, statistics=vectors(t))
        after = kronecker(state)
        same = jax.tree.map(jnp.array_equal, before[1:], after[1:])
        if not jax.tree.all(same):
            counts.append(t)
    assert counts == [0, 1, 3, 6]


def test_bfloat16_factors_take_nearly_the_same_steps():
    params = new_params(ONE)
    full, _ = trained(mkor(0.1, update_every=1), params)
    tx = mkor(0.1, update_every=1, factor_dtype=jnp.bfloat16)
    half, state = trained(tx, params)
    assert kronecker(state).input_inverse["up"]["kernel"].dtype == jnp.bfloat16
    # Ten factor steps that round to 2^-9.
    assert_close(half, full, 5e-2, "parameters")


def test_a_bad_statistic_leaves_the_factors_of_its_layer():
    params = new_params(DENSE)
    tx = mkor(0.1, update_every=1)
    _, state = trained(tx, params, steps=2)
    step, before = jax.jit(tx.update), kronecker(state).input_inverse
    for name, bad in itertools.product("ag", (np.nan, np.inf)):
        given = vectors(2)
        given["up"][name] = given["up"][name].at[1].set(bad)
        updates, new = step(params, state, params, statistics=given)
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((updates, new)))
        after = kronecker(new).input_inverse
        assert_close(after["up"], before["up"], 0, "the bad layer")
        assert not jnp.array_equal(after["down"]["kernel"], before["down"]["kernel"])


def test_statistics_of_any_size_are_clipped():
    params = new_params(ONE)
    tx = mkor(0.1, update_every=1)
    state = tx.init(params)
    for size in (1e30, 1e-30, 3e38):
        given = optax.tree.scale(size, vectors(1))
        updates, state = jax.jit(tx.update)(params, state, params, statistics=given)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((updates, state)))


# A base optimizer


def test_a_base_replaces_momentum_and_scale():
    params = new_params(ONE)
    base = optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio())
    tx = scale_by_mkor(update_every=1, base=base)
    plain = scale_by_mkor(update_every=1, base=optax.identity())
    gradient = random_like(params)
    arguments = {"statistics": vectors(0)}
    updates, _ = jax.jit(tx.update)(gradient, tx.init(params), params, **arguments)
    first, _ = jax.jit(plain.update)(gradient, plain.init(params), params, **arguments)
    expected, _ = base.update(first, base.init(params), params)
    assert_close(updates, expected, 1e-5, "LAMB after preconditioning")


def test_preconditioning_keeps_the_norm_of_a_layer():
    params = new_params(DENSE)
    tx = scale_by_mkor(update_every=1, base=optax.identity())
    _, state = trained(tx, params, steps=3)
    gradient = random_like(params)
    updates, _ = jax.jit(tx.update)(gradient, state, statistics=vectors(4))
    for name in DENSE:
        before, after = (joint(tree[name]) for tree in (gradient, updates))
        sizes = [reference.norm(x, name == "up") for x in (before, after)]
        assert sizes[1] == pytest.approx(sizes[0], rel=1e-5)
        assert np.abs(after - before).max() > 1e-2


# MKOR-H


def run(losses, switch=None):
    switch = LossRate(window=2, fraction=0.5, patience=2) if switch is None else switch
    state, seen = switch.init(), []
    for loss in losses:
        state = switch.update(state, loss)
        seen.append(bool(state.second_order))
    return seen


def test_the_switch_comes_after_slow_windows_in_a_row():
    steep, slow = [10, 10, 6, 6, 2, 2], [1.9, 1.9, 1.8, 1.8]
    assert run(steep + slow) == [True] * 9 + [False]
    # One window as steep as half the steepest, and the count starts again.
    assert all(run(steep + slow[:2] + [-2.0, -2.0] + [-2.1, -2.1]))
    assert not run(steep + slow + [-50.0] * 10)[-1]


def test_a_loss_that_is_not_finite_is_left_out():
    losses = [10, 10, 6, 6, 2, 2, 1.9, 1.9, 1.8]
    with_bad = [np.nan, *losses, np.inf, -np.inf]
    assert all(run(with_bad)) and not run([*with_bad, 1.8])[-1]


def test_after_the_switch_gradients_pass_as_they_are():
    params = new_params(ONE)
    switch = LossRate(window=1, fraction=0.5, patience=1)
    tx = scale_by_mkor(update_every=1, base=optax.identity(), switch=switch)
    state, step = tx.init(params), jax.jit(tx.update)
    gradient = random_like(params)
    changed = []
    for t, loss in enumerate((4.0, 2.0, 0.5, 0.5, 0.0)):
        before = kronecker(state).input_inverse
        updates, state = step(gradient, state, statistics=vectors(t), value=loss)
        same = jax.tree.map(lambda x, y: bool(jnp.allclose(x, y)), updates, gradient)
        changed.append(not jax.tree.all(same))
    # The first step only sets the factors to the identity.
    assert changed == [False, True, True, False, False]
    after = kronecker(state).input_inverse
    assert_close(after, before, 0, "the factors after the switch")


# Misuse


def test_missing_statistics_say_what_to_do():
    params = new_params(DENSE)
    tx = mkor(0.1)
    with pytest.raises(ValueError, match="statistics=.*value_and_grad_with_statistics"):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"up": {"g": jnp.ones(6)}}, "'up/kernel' has no statistic 'a'"),
        (
            {"up": {"a": jnp.ones(5), "g": jnp.ones(6)}},
            r"'up/kernel'.*\(5,\), not \(4,",
        ),
        ({"up": {"a": jnp.ones(4), "g": jnp.ones((6, 1))}}, r"'g' of leaf 'up/kernel'"),
    ],
    ids=["missing", "size", "rank"],
)
def test_statistics_that_do_not_fit_name_the_leaf(change, message):
    params = new_params(DENSE)
    tx = mkor(0.1)
    with pytest.raises(ValueError, match=message):
        tx.update(params, tx.init(params), statistics={**vectors(0), **change})


def test_a_switch_needs_the_loss():
    params = new_params(DENSE)
    tx = mkor(0.1, switch=LossRate())
    with pytest.raises(ValueError, match="value=loss"):
        tx.update(params, tx.init(params), statistics=vectors(0))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"beta": 1.0}, "beta"),
        ({"rule": "dampened"}, "rule must be one of 'damped', 'ema', 'printed'"),
        ({"rule": (Damped(),)}, "rule"),
        ({"update_every": 0}, "update_every"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"clip": -1.0}, "clip"),
        ({"nonfinite": "skip"}, "nonfinite"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_impossible_values_are_refused_at_once(kwargs, message):
    with pytest.raises(ValueError, match=message):
        mkor(**{"learning_rate": 0.1, **kwargs})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Damped(1.0),
        lambda: MovingAverage(0.0),
        lambda: MovingAverage(weight=-1.0),
        lambda: Printed(1.5),
        lambda: Reset(-1.0),
        lambda: Blend(keep=1.0),
        lambda: LossRate(window=0),
        lambda: LossRate(patience=0),
    ],
)
def test_impossible_rules_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_a_vector_alone_is_refused():
    with pytest.raises(ValueError, match="'scale'.*not a matrix"):
        scale_by_mkor().init({"scale": jnp.ones(3)})


def test_a_summary_counts_biases_among_the_matrices():
    params = new_params(DENSE)
    summary = optax_ortho.summary(mkor(0.1), params)
    (group,) = summary.groups
    assert group[1] == "mkor" and group[4] == 3


def test_a_rank_one_update_is_an_inverse():
    v = jnp.asarray(random_vectors(1)[0])
    found = sherman_morrison(2 * jnp.eye(6), v, weight=3.0)
    expected = np.linalg.inv(np.eye(6) / 2 + 3 * np.outer(v, v))
    assert_close(found, expected, 1e-6, "the inverse")  # Float32 roundings.
