"""Pictures show the numbers they are given, and nothing of them is cut off."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from matplotlib.colors import to_rgb
from matplotlib.text import Text

import optax_ortho
from optax_ortho import layouts, plots
from optax_ortho.orthogonalizers import COEFFICIENTS
from optax_ortho.orthogonalizers.coefficients import apply_rows
from optax_ortho.plots import style

STEPS = np.arange(1.0, 101)
LOSSES = {"adamw": 1 + 3 / STEPS**0.3, "peer": 1 + 3 / STEPS**0.31, "ours": 4 / STEPS}
CURVES = {name: np.stack([STEPS, STEPS / 7, y], 1) for name, y in LOSSES.items()}
MATRICES = {
    "gradient": np.diag([100.0, 10.0, 1.0]),
    "update": np.stack([np.eye(3), 1.1 * np.eye(3)]),
}


def kernel(*shape):
    mesh = AbstractMesh((4,), ("fsdp",))
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def planned():
    params = {f"layer_{i}": {"kernel": kernel(64, 128)} for i in range(5)}
    params |= {f"wide_{i}": {"kernel": kernel(64, 512)} for i in range(2)}
    params["stack"] = {"blocks": {"kernel": kernel(64, 256)}}
    tx = optax_ortho.muon(0.02, layout=layouts.sharded(params))
    return optax_ortho.plan(tx, params)


def curves():
    return plots.curves(
        CURVES,
        ("steps", "seconds"),
        highlight="ours",
        reference="adamw",
        headline="A headline",
        below="one line\nand another",
    )


PICTURES = {
    "spectra": lambda: plots.spectra(MATRICES),
    "coefficients": lambda: plots.coefficients("keller_jordan", "polar_express"),
    "plan": lambda: plots.plan(planned()),
    "curves": curves,
}


@pytest.mark.parametrize("look", ["default", "dark_background"])
@pytest.mark.parametrize("name", PICTURES)
def test_nothing_is_cut_off_or_in_the_way(name, look):
    with plt.style.context(look):
        figure = PICTURES[name]()
        figure.draw_without_rendering()
    assert not plt.get_fignums(), "Pyplot would show it a second time."
    tight = figure.get_tightbbox()
    assert tight.x0 > 0 and tight.x1 < figure.get_figwidth() + 0.01
    assert tight.y0 > 0 and tight.y1 < figure.get_figheight() + 0.01
    # The titles of panels, and the names of curves.
    texts = [
        text
        for axes in figure.axes
        for text in axes.findobj(Text)
        if "\n" in text.get_text() or "  " in text.get_text()
    ]
    boxes = [text.get_window_extent() for text in texts]
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def contrast(color, background):
    def luminance(c):
        c = np.array(to_rgb(c))
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    light, dark = sorted((luminance(color), luminance(background)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("background", ["#ffffff", "#000000", "#1e1e1e"])
def test_colors_are_seen(background):
    for color in (style.HIGHLIGHT, style.NEUTRAL, *style.COLORS):
        # What WCAG 2.2 asks of graphics (1.4.11).
        assert contrast(color, background) >= 3


def test_spectra_are_singular_values():
    first, second = plots.spectra(MATRICES).axes
    np.testing.assert_allclose(first.lines[0].get_ydata(), [100, 10, 1])
    assert len(second.lines) == 2
    assert "10 x the median" in first.get_title(loc="left")


def test_a_matrix_of_zeros_has_a_picture():
    (axes,) = plots.spectra({"zero": np.zeros((3, 4))}).axes
    assert "zero" in axes.get_title(loc="left")


def test_coefficients_are_the_map_of_all_steps():
    (axes,) = plots.coefficients("polar_express").axes
    table = COEFFICIENTS["polar_express"]
    *steps, result = axes.lines[:5]
    x = result.get_xdata()
    inside = x <= 1  # Above, this table diverges.
    for i, line in enumerate([*steps, result], start=1):
        expected = apply_rows(table.rows[:i], x)
        np.testing.assert_allclose(line.get_ydata()[inside], expected[inside])
    assert f"{table.certificate().minimum:.3g}" in axes.get_title(loc="left")


def test_what_leaves_the_picture_is_not_drawn():
    table = optax_ortho.orthogonalizers.Coefficients("wild", [(9.0, 0.0, 0.0)])
    (axes,) = plots.coefficients(table).axes
    assert np.nanmax(axes.lines[0].get_ydata()) < 3


def test_a_plan_shows_every_matrix_once_and_as_long_as_its_work():
    plan = planned()
    axes = plots.plan(plan).axes[0]
    bars = [bar.get_paths()[0].get_extents() for bar in axes.collections]
    assert len(bars) == 8
    work = sum(
        matrix.flops
        for one in plan.cost.rounds
        for share in one.owners
        for matrix in share
    )
    np.testing.assert_allclose(sum(bar.width for bar in bars) * 1e9, work)
    np.testing.assert_allclose(max(bar.x1 for bar in bars) * 1e9, plan.cost.flops)
    paths = [x.path for one in plan.cost.rounds for own in one.owners for x in own]
    assert len(paths) == len(set(paths)) == 8
    for i, one in enumerate(bars):
        for other in bars[i + 1 :]:
            apart = one.x1 <= other.x0 or other.x1 <= one.x0
            assert apart or one.y1 < other.y0 or other.y1 < one.y0


def test_a_repeated_round_is_drawn_as_often():
    labels = {"kernel": optax_ortho.MatrixAxes((1,), (2,))}
    mesh = AbstractMesh((4,), ("fsdp",))
    params = {
        "kernel": jax.ShapeDtypeStruct(
            (12, 1024, 1024),
            jnp.float32,
            sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp")),
        )
    }
    tx = optax_ortho.muon(0.1, labels=labels, layout=layouts.sharded(params))
    assert len(plots.plan(optax_ortho.plan(tx, params)).axes[0].collections) == 12


def test_curves_are_the_losses_and_the_crossing_is_marked():
    figure = curves()
    by_steps, by_seconds = figure.axes
    drawn = [line.get_ydata() for line in by_steps.lines if len(line.get_xdata()) > 2]
    assert any(np.array_equal(y, LOSSES["ours"]) for y in drawn)
    reached = STEPS[LOSSES["ours"] <= LOSSES["adamw"][-1]][0]
    for axes, factor in ((by_steps, 1), (by_seconds, 1 / 7)):
        (mark,) = (line for line in axes.lines if line.get_marker() == "o")
        np.testing.assert_allclose(mark.get_xdata(), [reached * factor])


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_curves_that_end_in_nan_or_never_move(scale):
    flat = np.stack([STEPS, np.ones(100)], 1)
    lost = np.stack([STEPS, np.where(STEPS > 50, np.nan, 1 / STEPS)], 1)
    figure = plots.curves({"flat": flat, "lost": lost}, scale=scale)
    low, high = figure.axes[0].get_ylim()
    assert np.isfinite([low, high]).all() and low < 1 < high
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert any("lost" in text for text in texts)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.spectra({}),
        lambda: plots.spectra({"v": np.ones(3)}),
        lambda: plots.spectra({"nan": np.full((2, 2), np.nan)}),
        lambda: plots.coefficients(),
        lambda: plots.curves({}),
        lambda: plots.curves({"a": np.ones((3, 3))}),
        lambda: plots.curves({"a": np.ones((3, 2))}, highlight="b"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw):
    with pytest.raises(ValueError):
        draw()
    assert not plt.get_fignums()
