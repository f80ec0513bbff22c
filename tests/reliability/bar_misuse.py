"""B16, B20, B21 and B25: misuse is refused in clear words, and nothing is silent."""

import ast
import functools
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optax_ortho
from optax_ortho import MatrixAxes
from optax_ortho.testing import random_like
from tests.reliability.bar_numbers import NotPromised, difference, named, step
from tests.reliability.subjects import MATRICES, NAMES, Subject
from tests.rows import new_params

SHAPES = {"dense": {"kernel": (8, 6)}, "bias": (6,)}
LABELS = {"dense/kernel": "matrix", "bias": "bias"}


def misuses(subject: Subject) -> dict[str, tuple[Callable, tuple[str, ...]]]:
    """Each misuse, and the words that its message must have."""
    params = new_params(SHAPES)
    kernel, bias = params["dense"]["kernel"], params["bias"]

    def new(labels: Any = LABELS, **arguments: Any) -> Any:
        return subject.new(labels, params, **arguments)

    def updated(gradient: Any, given: Any = params, labels: Any = LABELS) -> Any:
        tx = new(labels)
        # Tracing is enough: nothing of it is about values.
        return jax.eval_shape(lambda g, p: tx.update(g, tx.init(p), p), gradient, given)

    def extra(leaf: Any, gradient: Any) -> Any:
        given = {**params, "extra": leaf}
        labels = {**LABELS, "extra": "scalar"}
        return updated({**params, "extra": gradient}, given, labels)

    def tree(kernel: Any = kernel, bias: Any = bias) -> Any:
        return {"dense": {"kernel": kernel}, "bias": bias}

    def restored() -> Any:
        tx = new()
        other = tree(kernel=jnp.ones((4, 6)))
        return jax.eval_shape(tx.update, params, tx.init(other), params)

    found: dict[str, tuple[Callable, tuple[str, ...]]] = {
        "broadcast gradient": (lambda: updated(tree(kernel[:1])), ("kernel", "(1, 6)")),
        "transposed gradient": (lambda: updated(tree(kernel.T)), ("kernel", "(6, 8)")),
        "scalar gradient": (lambda: updated(tree(bias=bias[0])), ("bias", "()")),
        "missing gradient": (lambda: updated({"bias": bias}), ("dense/kernel",)),
        "one gradient more": (
            lambda: updated(
                {**params, "extra": bias}, labels={**LABELS, "extra": "bias"}
            ),
            ("extra",),
        ),
        "integer leaf": (
            lambda: extra(jnp.arange(3), jnp.arange(3)),
            ("extra", "int32"),
        ),
        "bool leaf": (
            lambda: extra(jnp.ones(3, bool), jnp.ones(3, bool)),
            ("extra", "bool"),
        ),
        "key leaf": (
            lambda: extra(jax.random.key(0), jax.random.key(0)),
            ("extra", "key"),
        ),
        "float gradient of an integer": (
            lambda: extra(jnp.arange(3), jnp.ones(3)),
            ("extra", "int32"),
        ),
        "state of other parameters": (restored, ("kernel", "state")),
        "negative rate": (lambda: new(learning_rate=-1.0), ("learning_rate", "-1.0")),
        "rate NaN": (lambda: new(learning_rate=np.nan), ("learning_rate", "nan")),
    }
    if subject.real:
        other = tree(kernel=kernel.astype(jnp.complex64))
        found["complex leaf"] = (lambda: new().init(other), ("complex64", "kernel"))
    if subject.matrices:
        found |= {
            "matrix without axes": (
                lambda: new({**LABELS, "bias": "matrix"}).init(params),
                ("bias", "(6,)"),
            ),
            "axis out of range": (
                lambda: new({**LABELS, "dense/kernel": MatrixAxes(3, 1)}).init(params),
                ("dense/kernel", "(8, 6)"),
            ),
            "axis named twice": (
                lambda: new({**LABELS, "dense/kernel": MatrixAxes(1, 1)}).init(params),
                ("dense/kernel", "twice"),
            ),
            "no such role": (
                lambda: new({**LABELS, "bias": "biass"}).init(params),
                ("bias",),
            ),
            "no label": (
                lambda: new({"dense/kernel": "matrix"}).init(params),
                ("bias", "label"),
            ),
        }
    for name, value in WRONG_NUMBERS:
        if name in signature(subject):
            found[f"{name}={value}"] = (
                functools.partial(new, **{name: value}),
                (name, str(value)),
            )
    return found


WRONG_NUMBERS = [
    ("beta", 1.5),
    ("beta", -0.1),
    ("beta", 1.0),
    ("beta", np.nan),
    ("weight_decay", -0.1),
    ("adamw_b1", 1.0),
    ("adamw_b2", -1.0),
    ("adamw_eps", -1.0),
    ("adamw_learning_rate", np.nan),
    ("nonfinite", "skip"),
    ("eps", -1.0),
]


def signature(subject: Subject) -> set[str]:
    """The arguments of a subject's own factory."""
    if not subject.is_ours:
        return {"beta", "eps", "weight_decay"}
    factory = getattr(optax_ortho, subject.name)
    bound = subject.name in ("namo", "namo_d")
    return set(inspect.signature(factory).parameters) - ({"eps"} if bound else set())


def message(misuse: Callable) -> str | None:
    """The error message for a misuse; None if there is no error."""
    try:
        misuse()
    except (ValueError, TypeError) as error:
        return str(error)
    except Exception as error:  # Such as an AttributeError: no words for a user.
        return f"{type(error).__name__}, {error}"[:500].ljust(500)
    return None


def b16(subject: Subject) -> str:
    """Every misuse raises an error of under 500 characters that names the leaf."""
    found, problems = misuses(subject), []
    for name, (misuse, words) in found.items():
        said = message(misuse)
        if said is None:
            problems.append(f"{name}: accepted")
        elif len(said) >= 500 or not all(word in said for word in words):
            problems.append(f"{name}: unclear: {said[:80]}")
    assert not problems, f"{len(problems)} of {len(found)}: {'; '.join(problems)}"[:400]
    return f"{len(found)} refused"


class Leaves(nnx.Module):
    """A model that is nothing but a tree of parameters."""

    def __init__(self, tree: Any):
        for name, value in tree.items():
            branch = isinstance(value, dict)
            setattr(self, name, Leaves(value) if branch else nnx.Param(value))


def b20(subject: Subject) -> str:
    """Under NNX, where leaves are boxed at init only, labels stay the same."""
    tx, params = subject.standard()
    asked: list[tuple[str, str]] = []
    if subject.matrices and subject.is_ours:

        def labels(path: str, leaf: Any) -> Any:
            asked.append((path, str(NAMES[path])))
            return NAMES[path]

        tx = subject.factory(learning_rate=0.1, labels=labels)
        tx = optax.with_extra_args_support(tx)
        if subject.statistics:
            tx = subject.standard()[0]
    model = Leaves(params)
    jitted = optax.GradientTransformation(tx.init, jax.jit(tx.update))
    optimizer = nnx.Optimizer(model, jitted, wrt=nnx.Param)
    optimizer.update(model, nnx.state(Leaves(random_like(params)), nnx.Param))
    trained = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    updates, _ = step(tx, random_like(params), params)
    worst = difference(trained, optax.apply_updates(params, updates))
    assert worst < 1e-4, f"differs by {worst:.0e}"
    return f"{len(set(asked))} labels" if asked else "as without NNX"


def b21(subject: Subject) -> str:
    """The number of orthogonalized matrices can be queried."""
    if not subject.matrices:
        raise NotPromised("it orthogonalizes nothing")
    tx, params = subject.standard()
    assert subject.is_ours, "nothing tells"
    shown = str(optax_ortho.summary(tx, params))
    group = next(
        row for row in optax_ortho.summary(tx, params).groups if row[0] == "matrix"
    )
    assert group[4] == len(named(params).keys() & set(MATRICES)), shown
    nothing = subject.new({"bias": "bias"}, {"bias": jnp.ones(6)})
    text = str(optax_ortho.summary(nothing, {"bias": jnp.ones(6)}))
    assert "No leaf is orthogonalized" in text, text
    return f"{group[4]} leaves"


OFFLINE = """
import socket
def refuse(*args, **kwargs): raise SystemExit("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import optax_ortho, optax_ortho.testing, optax_ortho.labels.flax_nnx
import optax_ortho.labels.flax_linen
"""


@functools.cache
def opens_no_socket() -> None:
    environment = {"JAX_PLATFORMS": "cpu", "PATH": ""}
    command = [sys.executable, "-c", OFFLINE]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr[-300:]


@functools.cache
def runs_no_data() -> None:
    """Nothing in the package unpickles, evaluates or executes."""
    for path in Path(optax_ortho.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names]
                names.append(getattr(node, "module", None) or "")
                banned = {
                    "pickle",
                    "cloudpickle",
                    "dill",
                    "marshal",
                    "shelve",
                    "socket",
                }
                assert not banned & {n.split(".")[0] for n in names}, f"{path}: {names}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                banned = {"eval", "exec", "compile", "__import__"}
                assert node.func.id not in banned, f"{path}:{node.lineno}"


def b25(subject: Subject) -> str:
    """Loading runs no code from data, and importing opens no socket."""
    if not subject.is_ours:
        raise NotPromised("a promise about this package")
    opens_no_socket()
    runs_no_data()
    return "no pickle, no eval, no socket"
