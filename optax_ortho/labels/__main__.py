r"""The command ``python -m optax_ortho.labels``, which prints the labels of a model.

    python -m optax_ortho.labels package.module:Model --inputs 2x128:int32
    python -m optax_ortho.labels package.module:apply --params package.module:init \
        --inputs 2x128:int32 mask=2x128:bool --set train=False

Everything is traced in shapes, and no array is made. An `nnx.Module`, a Linen module or
a tree that can be called is named itself, or by a class or a function that makes it,
from ``rngs`` or ``key`` if it asks for them. A function of parameters is named together
with ``--params``: a tree of arrays, an `nnx.Module`, or a function that makes one.
"""

import argparse
import ast
import importlib
import operator
import re
from collections.abc import Sequence
from typing import Any

import jax

import optax_ortho
from optax_ortho.labels import abstract
from optax_ortho.report import Summary

NAME = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)")
AXES = re.compile(r"([\d,]+)->([\d,]+)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table of labels of a model.

    Args:
      arguments: the words of a command line; None is `sys.argv`.

    Raises:
      SystemExit: with the code 2, after a message, if the model cannot be labelled.

    Examples:
      >>> main(["jax.numpy:dot", "--params", "jax.numpy:eye", "--inputs", "3x4"])
      Traceback (most recent call last):
      SystemExit: 2
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        labels = _labels(given)
        parts: list[Any] = [labels]
        if given.summary is not None:
            parts.append(_summary(given.summary, labels))
    except (TypeError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(*parts, sep="\n\n")


def _labels(given: argparse.Namespace) -> optax_ortho.Labels:
    """The labels that the command asks for."""
    inputs = [_input(text) for text in given.inputs if "=" not in text]
    named = dict(_pair(text) for text in given.inputs if "=" in text)
    arguments = {name: _input(text) for name, text in named.items()}
    arguments |= {name: _literal(text) for name, text in map(_pair, given.set)}
    model = _load(given.model)
    if given.params is None:
        model = abstract.build(model)
    else:
        inputs.insert(0, abstract.build(_load(given.params)))
    return optax_ortho.label(
        model,
        *inputs,
        overrides={
            pattern: _label(text) for pattern, text in map(_pair, given.overrides)
        },
        wrt=None if given.wrt is None else _load(given.wrt),
        split=given.split is not None and (given.split or True),
        **arguments,
    )


def _summary(recipe: str, labels: optax_ortho.Labels) -> Summary:
    """The summary of a recipe for a model of these labels, in float32."""
    if recipe not in optax_ortho.__all__ or not callable(getattr(optax_ortho, recipe)):
        raise ValueError(f"optax_ortho has no recipe {recipe!r}.")
    params = {path: jax.ShapeDtypeStruct(shape, "float32") for path, shape, _ in labels}
    tx = getattr(optax_ortho, recipe)(learning_rate=0.01, labels=labels)
    return optax_ortho.summary(tx, params)


def _load(name: str) -> Any:
    """The value that ``package.module:name`` names."""
    parts = NAME.fullmatch(name)
    if parts is None:
        raise ValueError(f"{name!r} names no model; write package.module:name.")
    module, attribute = parts.groups()
    try:
        return operator.attrgetter(attribute)(importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise ValueError(f"{name!r}: {error}. It has to be on the path.") from None
    except AttributeError as error:
        raise ValueError(f"{name!r} could not be imported: {error}.") from None


def _input(text: str) -> Any:
    """An array by its shape, or a tree by the name of what makes it."""
    return abstract.build(_load(text)) if NAME.fullmatch(text) else abstract.shape(text)


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise ValueError(f"{text!r} is no pair; write name=value.")
    return name, value


def _literal(text: str) -> Any:
    """A value of Python, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _label(text: str) -> Any:
    """A role, or the axes of a matrix as in the table: ``0,1->2``."""
    sides = AXES.fullmatch(text)
    if sides is None:
        return text
    fan_in, fan_out = (
        tuple(int(axis) for axis in side.split(",")) for side in sides.groups()
    )
    return optax_ortho.MatrixAxes(fan_in, fan_out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m optax_ortho.labels",
        description="Print the role and the matrix axes of every parameter of a model, "
        "from its forward pass, in shapes alone.",
    )
    parser.add_argument(
        "model",
        metavar="package.module:name",
        help="a model, a class or a function that makes one, or, with --params, a "
        "function of parameters",
    )
    several = [
        (
            "--inputs",
            "INPUT",
            "what the model is called with: 2x128:int32, or mask=2x128 "
            "for a keyword (float32), or package.module:name of a tree",
        ),
        ("--set", "NAME=VALUE", "keyword arguments of the call, as train=False"),
        ("--overrides", "PATTERN=ROLE", "roles by path, or axes: '**/w=0->1,2'"),
    ]
    for option, metavar, text in several:
        parser.add_argument(option, nargs="+", default=[], metavar=metavar, help=text)
    parser.add_argument(
        "--params", help="the parameters of a function, or their factory"
    )
    parser.add_argument("--wrt", help="the NNX variables to train: flax.nnx:LoRAParam")
    parser.add_argument(
        "--split",
        nargs="*",
        metavar="PATTERN",
        help="orthogonalize "
        "the blocks of fused matrices by themselves: of all, or of these paths",
    )
    parser.add_argument(
        "--summary",
        nargs="?",
        const="muon",
        metavar="RECIPE",
        help="print also what this optimizer, muon, would do",
    )
    return parser


if __name__ == "__main__":
    main()
