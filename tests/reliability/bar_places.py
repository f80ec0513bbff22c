"""B10 to B13 and B23: meshes, and checkpoints that cross them."""

import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optax_ortho import checkpoints
from optax_ortho.testing import check_round_trip, random_like
from tests.reliability.bar_numbers import NotPromised, difference, named, step
from tests.reliability.subjects import Subject
from tests.rows import new_params

GOLDEN = Path(__file__).parents[1] / "checkpoints"
SPECS = {
    "rows": ((8, 6), P("x")),
    "columns": ((6, 8), P(None, "y")),
    "both": ((8, 4), P("x", "y")),
    "stack": ((4, 4, 6), P("x")),
    "whole": ((4, 6), P()),
    "bias": ((8,), P("x")),
}
LABELS = {name: "bias" if name == "bias" else "matrix" for name in SPECS}


def labels_of(names: Any) -> dict:
    from optax_ortho import MatrixAxes

    return {n: MatrixAxes() if n == "stack" else LABELS[n] for n in names}


def placed(tree: Any, mesh: Any) -> Any:
    """A tree with the paths of `SPECS`, on a mesh."""

    def place(keys, leaf):
        found = [
            k for k in SPECS if any(getattr(key, "key", None) == k for key in keys)
        ]
        spec = SPECS[found[-1]][1] if found else P()
        fits = found and np.shape(leaf) == SPECS[found[-1]][0]
        spec = spec if fits else P()
        names = [a if a in mesh.axis_names else None for a in spec]
        return jax.device_put(leaf, NamedSharding(mesh, P(*names)))

    return jax.tree_util.tree_map_with_path(place, tree)


def new_mesh(shape: tuple, names: tuple, kind: AxisType = AxisType.Auto) -> Any:
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape), devices=devices)


def b10(subject: Subject) -> str:
    """A step on Auto and Explicit meshes equals one device's, and keeps shardings."""
    params = new_params({name: shape for name, (shape, _) in SPECS.items()})
    tx = subject.new(labels_of(SPECS), params)
    gradient = random_like(params)
    expected, _ = step(tx, gradient, params)
    worst = 0.0
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = new_mesh((4, 2), ("x", "y"), kind)
        with jax.set_mesh(mesh):
            on_mesh = placed(params, mesh)
            state = tx.init(on_mesh)
            updates, new = jax.jit(tx.update)(placed(gradient, mesh), state, on_mesh)
            if kind == AxisType.Explicit:
                for name, leaf in updates.items():
                    same = leaf.sharding.is_equivalent_to(
                        on_mesh[name].sharding, leaf.ndim
                    )
                    assert same, f"{name} is laid out as {leaf.sharding}"
                before = jax.tree.map(jax.typeof, state)
                assert jax.tree.map(jax.typeof, new) == before, "the state moved"
        worst = max(worst, difference(jax.device_get(updates), expected))
    # Sums in another order, enlarged where a decomposition is badly conditioned.
    assert worst < (1e-5 if subject.matmul else 1e-3), f"differs by {worst:.0e}"
    return f"{worst:.0e}"


def b11(subject: Subject) -> str:
    """In shard_map a shard is not mistaken for a whole matrix."""
    if not subject.matrices:
        raise NotPromised("it treats all leaves as vectors")
    params = new_params({"kernel": (8, 6)})
    tx = subject.new({"kernel": "matrix"}, params)
    mesh = new_mesh((8,), ("x",))
    parts = jax.shard_map(
        lambda p: tx.update(p, tx.init(p), p)[0],
        mesh=mesh,
        in_specs=P("x"),
        out_specs=P("x"),
    )
    try:
        jax.eval_shape(parts, params)
    except ValueError as error:
        text = str(error)
        assert "'kernel'" in text and "x" in text and len(text) < 500, text
        return "refused"
    raise AssertionError("each part is taken for a whole matrix")


def b12(subject: Subject) -> str:
    """Training continues bit for bit from every kind of checkpoint, on every mesh."""
    tx, params = subject.standard()
    for name, save_and_load in savers(tx, params).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check_round_trip(tx, params, save_and_load)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None
    return f"bit for bit; meshes {check_meshes(subject):.0e}"


def savers(tx: Any, params: Any) -> dict[str, Any]:
    """Ways to save a state and load it."""

    def through_flax(state):
        saved = flax.serialization.to_bytes(state)
        return flax.serialization.from_bytes(tx.init(params), saved)

    def through_orbax(state):
        with tempfile.TemporaryDirectory() as folder:
            return orbax_round_trip(Path(folder), state, jax.eval_shape(lambda: state))

    def through_npz(state):
        with tempfile.TemporaryDirectory() as folder:
            np.savez(f"{folder}/state.npz", **checkpoints.to_flat(state))
            with np.load(f"{folder}/state.npz", allow_pickle=False) as flat:
                return checkpoints.from_flat(tx, params, flat)

    def through_nnx(state):
        variables = nnx.Dict(
            state=nnx.data([nnx.Variable(x) for x in jax.tree.leaves(state)])
        )
        pure = nnx.to_pure_dict(nnx.state(variables))
        with tempfile.TemporaryDirectory() as folder:
            loaded = orbax_round_trip(Path(folder), pure, jax.eval_shape(lambda: pure))
        restored = nnx.state(variables)
        nnx.replace_by_pure_dict(restored, loaded)
        nnx.update(variables, restored)
        leaves = [variable[...] for variable in variables.state]
        return jax.tree.unflatten(jax.tree.structure(state), leaves)

    return {
        "pickle": lambda state: pickle.loads(pickle.dumps(state)),
        "flax bytes": through_flax,
        "orbax": through_orbax,
        "npz": through_npz,
        "nnx": through_nnx,
    }


def orbax_round_trip(folder: Path, tree: Any, target: Any) -> Any:
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state", target)


def check_meshes(subject: Subject) -> float:
    """Saves on eight devices, and restores on four other meshes and on one device."""
    params = new_params({name: SPECS[name][0] for name in ("both", "stack", "bias")})
    tx = subject.new(labels_of(params), params)
    gradient = random_like(params)
    mesh = new_mesh((4, 2), ("x", "y"))
    here = placed(params, mesh)
    _, state = jax.jit(tx.update)(placed(gradient, mesh), tx.init(here), here)
    expected, _ = jax.jit(tx.update)(gradient, jax.device_get(state), params)
    worst = 0.0
    targets = [((2, 4), "xy"), ((4,), "y"), ((2, 2), "xy"), ((4,), "x"), ((1,), "x")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, state)
            checkpointer.wait_until_finished()
            for shape, names in targets:
                other = new_mesh(shape, tuple(names))
                there = placed(params, other)
                blank = placed(jax.device_get(tx.init(params)), other)
                target = jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(
                        x.shape, x.dtype, sharding=x.sharding
                    ),
                    blank,
                )
                loaded = checkpointer.restore(path, target)
                updates, _ = jax.jit(tx.update)(placed(gradient, other), loaded, there)
                worst = max(worst, difference(jax.device_get(updates), expected))
    assert worst < (1e-5 if subject.matmul else 1e-3), f"meshes: {worst:.0e}"
    return worst


def b13(subject: Subject) -> str:
    """The released checkpoint loads, and one of another structure raises an error."""
    if not subject.is_ours:
        raise NotPromised("its checkpoints are not ours to keep")
    version, worst = golden_difference(subject)
    tx, params = scanned(subject, True)
    other, separate = scanned(subject, False)
    state = other.init(separate)
    try:
        checkpoints.check_state(tx, params, state)
    except ValueError as error:
        assert len(str(error)) < 500 and "stack_layers" in str(error)
    else:
        raise AssertionError("separate layers are taken for scanned ones")
    return f"{version}: {worst:.0e}"


def scanned(subject: Subject, together: bool) -> tuple[Any, Any]:
    """The same two layers as one leaf, or as two."""
    from optax_ortho import MatrixAxes

    if together:
        params = new_params({"layers": {"kernel": (2, 4, 6)}})
        return subject.new({"layers/kernel": MatrixAxes()}, params), params
    params = new_params({f"layer_{i}": {"kernel": (4, 6)} for i in range(2)})
    labels = {f"layer_{i}/kernel": "matrix" for i in range(2)}
    return subject.new(labels, params), params


def golden_difference(subject: Subject) -> tuple[str, float]:
    """The distance between the step after a committed checkpoint and the stored one."""
    tx, params = subject.standard()
    files = sorted(GOLDEN.glob("v*.npz"))
    assert files, "no checkpoint is committed"
    worst = 0.0
    for file in files:
        with np.load(file, allow_pickle=False) as data:
            mine = {k: data[k] for k in data if k.startswith(f"{subject.name}|")}
        cut = {k.removeprefix(f"{subject.name}|"): x for k, x in mine.items()}
        flat = {k[6:]: x for k, x in cut.items() if k.startswith("state|")}
        state = checkpoints.from_flat(tx, params, flat)
        updates, _ = jax.jit(tx.update)(random_like(params, seed=2), state, params)
        for name, leaf in named(updates).items():
            want = cut[f"update|{name}"]
            gap = np.abs(leaf - want).max() / np.abs(want).max()
            worst = max(worst, float(gap))
    # Another processor or compiler rounds products otherwise.
    assert worst < (1e-4 if subject.matmul else 1e-2), f"differs by {worst:.0e}"
    return files[-1].stem, worst


def b23(subject: Subject) -> str:
    """Empty leaves, and leaves that no mesh axis divides, work on a mesh."""
    shapes = {"empty": (0, 4), "odd": (5, 3), "kernel": (8, 6)}
    params = new_params(shapes)
    tx = subject.new(dict.fromkeys(shapes, "matrix"), params)
    gradient = random_like(params)
    expected, _ = step(tx, gradient, params)
    mesh = new_mesh((4, 2), ("x", "y"))
    shardings = {
        "empty": NamedSharding(mesh, P("x")),
        "odd": NamedSharding(mesh, P()),
        "kernel": NamedSharding(mesh, P("x")),
    }
    here = jax.device_put(params, shardings)
    updates, _ = step(tx, jax.device_put(gradient, shardings), here)
    worst = 0.0
    for name in ("odd", "kernel"):
        worst = max(worst, difference({name: updates[name]}, {name: expected[name]}))
    assert updates["empty"].shape == (0, 4)
    assert worst < (1e-5 if subject.matmul else 1e-3), f"differs by {worst:.0e}"
    return f"{worst:.0e}"
