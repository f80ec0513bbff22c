"""Contents of summaries and diagnostics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho import MatrixAxes, Split, diagnostics, layouts, muon, summary
from optax_ortho.orthogonalizers import NewtonSchulz
from optax_ortho.report import Summary
from tests.rows import ONE_STEP

SHAPES = {
    "bias": (6,),
    "kernel": (4, 6),
    "qkv": (4, 12),
    "stack": (3, 4, 6),
}
PARAMS = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
LABELS = {
    "bias": "bias",
    "kernel": "matrix",
    "qkv": MatrixAxes(split=Split(-1, (6, 3, 3))),
    "stack": MatrixAxes(),
}
MATRICES = 1 + 3 + 3


def our_muon(learning_rate: Any = 0.1, **kwargs):
    arguments = {"labels": LABELS, "adamw_learning_rate": 0.01, **kwargs}
    return muon(learning_rate, **{"orthogonalizer": ONE_STEP, **arguments})


def injected_muon():
    return optax.inject_hyperparams(muon)(0.1, labels=LABELS, adamw_learning_rate=0.01)


WRAPPERS = {
    "chain": lambda tx: optax.chain(tx, optax.scale(0.5)),
    "nested chain": lambda tx: optax.chain(optax.chain(optax.identity(), tx)),
    "partition": lambda tx: optax.partition(
        {"all": tx}, lambda p: jax.tree.map(lambda x: "all", p)
    ),
    "masked": lambda tx: optax.masked(tx, lambda p: jax.tree.map(lambda x: True, p)),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "inject_hyperparams": lambda tx: injected_muon(),
}
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())


@every_wrapper
def test_summary_counts_matrices_through_wrappers(wrap):
    assert summary(wrap(our_muon()), PARAMS).orthogonalized == MATRICES


@every_wrapper
def test_diagnostics_are_found_through_wrappers(wrap):
    tx = wrap(our_muon())
    figures = diagnostics(tx.init(PARAMS))
    assert (figures["skipped"], figures["steps"]) == (0, 0)


def test_a_second_summary_says_the_same():
    tx = our_muon()
    assert str(summary(tx, PARAMS)) == str(summary(tx, PARAMS))


def test_matrices_of_one_shape_share_a_row():
    rows = {row[0]: row[1] for row in summary(our_muon(), PARAMS).matrices}
    assert rows == {(4, 6): 1 + 3 + 1, (4, 3): 2}


@pytest.mark.parametrize("name", ["local", "sharded", "owned", "replicated"])
def test_a_layout_is_named_and_changes_nothing_else(name):
    everywhere = NamedSharding(jax.make_mesh((8,), ("data",)), P())
    there = jax.tree.map(lambda x: jax.device_put(x, everywhere), PARAMS)
    layout = {
        "local": layouts.local(),
        "sharded": layouts.sharded(there),
        "owned": layouts.owned(there, ("data",)),
        "replicated": layouts.replicated("data", 8),
    }[name]
    found, local = summary(our_muon(layout=layout), there), summary(our_muon(), PARAMS)
    for row, expected in zip(found.matrices, local.matrices, strict=True):
        assert row[:3] + row[4:] == expected[:3] + expected[4:]
        assert type(layout).__name__ in row[3]


def test_groups_say_who_goes_where():
    groups = {row[0]: row for row in summary(our_muon(), PARAMS).groups}
    name, method, rate, decay, leaves, size, state = groups["matrix"]
    assert (method, rate, decay) == ("muon", "0.1", "0")
    assert (leaves, size) == (3, 24 + 48 + 72)
    assert state == 4 * size + 4  # A momentum in float32 and the count of steps.
    name, method, rate, decay, leaves, size, state = groups["other"]
    assert (method, rate, decay, leaves, size) == ("adamw", "0.01", "0", 1, 6)
    assert state == 2 * 4 * size + 4 or state == 2 * 4 * size + 8  # m, v and counts.


def test_bytes_of_state_follow_the_momentum_dtype():
    (matrix, *_) = summary(our_muon(mu_dtype=jnp.bfloat16), PARAMS).groups
    assert matrix[-1] == 2 * (24 + 48 + 72) + 4


def test_fallbacks_by_role_are_groups():
    tx = our_muon(fallback={"bias": optax.sgd(0.1)})
    groups = {row[0]: row[1:5] for row in summary(tx, PARAMS).groups}
    assert groups["bias"] == ("fallback['bias']", "own", "own", 1)
    assert "other" not in groups


def test_schedules_are_shown_by_their_first_value():
    tx = our_muon(optax.linear_schedule(0.3, 0.0, 10))
    assert summary(tx, PARAMS).groups[0][2] == "schedule, 0.3 at step 0"


def test_injected_rates_are_called_so():
    assert summary(injected_muon(), PARAMS).groups[0][2] == "injected"


def test_nothing_is_computed():
    huge = {"kernel": jax.ShapeDtypeStruct((100_000, 1_000_000), jnp.float32)}
    assert summary(muon(0.1), huge).orthogonalized == 1


def test_it_prints_methods_layouts_and_costs():
    tx = our_muon(orthogonalizer=NewtonSchulz(), layout=optax_ortho.layouts.local())
    text = str(summary(tx, PARAMS))
    for words in ("4x6", "NewtonSchulz", "Local", "adamw", "FLOPs"):
        assert words in text, text


def test_a_plain_function_prints_by_its_name():
    def halved(x):
        return x / 2

    text = str(summary(our_muon(orthogonalizer=halved), PARAMS))
    assert "halved" in text and "unknown" in text


def test_lines_are_of_a_page_s_width():
    leaves = {"attention_output_projection" * 4 + "/qkv": jnp.ones((4, 4, 12))}
    text = str(summary(muon(0.1), leaves | PARAMS))
    assert "! " in text
    assert all(len(line) <= 88 for line in text.splitlines() if " " in line.strip())


# Warnings


def warnings_of(tx, params=PARAMS):
    return "\n".join(summary(tx, params).warnings)


def test_a_careful_recipe_has_no_warnings():
    assert warnings_of(our_muon()) == ""


def test_nothing_orthogonalized_is_a_warning():
    assert "No leaf is orthogonalized" in warnings_of(muon(0.1), {"b": jnp.ones(3)})


def test_a_transformation_of_others_is_a_warning():
    assert "No leaf is orthogonalized" in warnings_of(optax.adam(0.1))


@pytest.mark.parametrize(
    "path",
    [
        *("qkv", "attn/qkv/kernel", "c_attn/kernel", "mlp/gate_up/kernel"),
        *("in_proj_weight", "lstm/weight_ih_l0", "cell/weight_hh"),
    ],
)
def test_a_fused_leaf_without_a_split_is_a_warning(path):
    params = jnp.ones((4, 12))
    for name in reversed(path.split("/")):
        params = {name: params}
    found = warnings_of(muon(0.1, labels={"**": "matrix"}), params)
    assert f"{path} (4, 12) looks like several matrices" in found
    assert "Split(" in found


def test_a_shared_rate_is_a_warning():
    found = warnings_of(our_muon(0.25, adamw_learning_rate=None))
    assert "'other'" in found and "0.25" in found and "adamw_learning_rate" in found


def test_a_shared_rate_is_none_where_nobody_shares_it():
    tx = muon(0.1, labels={"kernel": "matrix"})
    assert warnings_of(tx, {"kernel": PARAMS["kernel"]}) == ""


def test_undecided_leaves_are_a_warning():
    params = {"kernel": jnp.ones((4, 6)), "conv": {"kernel": jnp.ones((3, 4, 6))}}
    found = warnings_of(muon(0.1, adamw_learning_rate=0.1), params)
    assert "conv/kernel" in found and "label(model, inputs)" in found


def test_warnings_are_printed():
    assert "! No leaf is orthogonalized." in str(summary(optax.adam(0.1), PARAMS))


def test_a_summary_without_anything_prints():
    assert str(Summary((), (), ())) == ""


# Diagnostics


def test_counts_of_steps_and_of_skipped_matrices():
    tx = our_muon()
    state = tx.init(PARAMS)
    bad = {**PARAMS, "kernel": PARAMS["kernel"] * np.nan}
    for gradient in (PARAMS, bad, bad):
        _, state = jax.jit(tx.update)(gradient, state, PARAMS)
    figures = diagnostics(state)
    assert (figures["steps"], figures["skipped"]) == (3, 2)


def test_figures_of_the_last_step():
    tx = our_muon(diagnostics=True)
    gradient = jax.tree.map(lambda x: 3.0 * x, PARAMS)
    updates, state = jax.jit(tx.update)(gradient, tx.init(PARAMS), PARAMS)
    matrices = np.concatenate([updates[k].ravel() for k in ("kernel", "qkv", "stack")])
    figures = diagnostics(state)
    assert figures["gradient_rms"] == pytest.approx(3.0)
    rms = np.sqrt(np.mean(np.square(matrices))) / 0.1
    assert figures["update_rms"] == pytest.approx(rms, rel=1e-5)


def test_figures_of_the_spectrum():
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    params = {"kernel": jnp.asarray(orthogonal, jnp.float32)}
    tx = optax_ortho.muon(0.1, diagnostics="spectrum", labels={"kernel": "matrix"})
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    figures = diagnostics(state)
    # An orthogonal matrix has equal singular values, which five steps keep equal.
    assert figures["orthogonality_residual"] < 1e-5
    assert figures["dual_alignment"] == pytest.approx(1, rel=1e-5)
    bent = {"kernel": params["kernel"].at[0].multiply(0.1)}
    updates, state = jax.jit(tx.update)(bent, tx.init(params), params)
    step, gradient = -np.asarray(updates["kernel"]), np.asarray(bent["kernel"])
    values = np.linalg.svd(step, compute_uv=False)
    residual = np.sqrt(np.mean((values**2 / np.mean(values**2) - 1) ** 2))
    nuclear = np.linalg.svd(gradient, compute_uv=False).sum()
    alignment = np.sum(step * gradient) / (nuclear * values.max())
    figures = diagnostics(state)
    assert figures["orthogonality_residual"] == pytest.approx(residual, rel=1e-3)
    assert figures["dual_alignment"] == pytest.approx(alignment, rel=1e-5)
    assert residual > 0.05 and alignment < 0.999


def test_an_unknown_kind_of_diagnostics_is_refused():
    with pytest.raises(ValueError, match="'spectral'"):
        optax_ortho.muon(0.1, diagnostics="spectral")


def test_without_diagnostics_there_are_only_counts():
    assert set(diagnostics(our_muon().init(PARAMS))) == {"skipped", "steps"}


def test_without_a_guard_nothing_is_skipped():
    state = our_muon(nonfinite="off").init(PARAMS)
    assert set(diagnostics(state)) == {"steps"}


def test_a_state_of_others_has_no_diagnostics():
    assert diagnostics(optax.adam(0.1).init(PARAMS)) == {}


def test_diagnostics_inside_jit():
    tx = our_muon(diagnostics=True)

    @jax.jit
    def step(state):
        _, state = jax.jit(tx.update)(PARAMS, state, PARAMS)
        return diagnostics(state)

    assert step(tx.init(PARAMS))["steps"] == 1


def test_recording_costs_a_step_nothing():
    tx = our_muon()
    state = tx.init(PARAMS)
    before = str(jax.make_jaxpr(tx.update)(PARAMS, state, PARAMS))
    summary(tx, PARAMS)
    assert str(jax.make_jaxpr(tx.update)(PARAMS, state, PARAMS)) == before


def test_diagnostics_under_an_nnx_optimizer_are_plain_arrays():
    model = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, muon(0.1, diagnostics=True), wrt=nnx.Param)
    optimizer.update(model, nnx.grad(lambda model: model(jnp.ones(4)).sum())(model))
    found = diagnostics(optimizer.opt_state)
    assert found["steps"] == 1 and found["update_rms"] > 0
    assert all(type(value) is type(jnp.ones(())) for value in found.values()), found
