"""Errors for leaves that nothing decides, and for trees that hold no parameters."""

from collections.abc import Sequence
from typing import Any

import jax

from optax_ortho.labels.kinds import Placed, by_kind, numberless, tail_of
from optax_ortho.labels.words import said_role
from optax_ortho.matrices import path_of
from optax_ortho.tables import leaf_count

MESSAGE = 490  # An error is read in a terminal: the longest text, in characters.
AXES = "MatrixAxes(fan_in=(...), fan_out=(...))"


def question(leaves: Sequence[Placed], call: str) -> str:
    """The question about leaves that nothing decides, with the code of an answer.

    Leaves of one kind, such as the same layer of every block, are counted, and one
    pattern answers for them. The axes are left to the user: a likely guess that is
    wrong would train, badly.

    Args:
      leaves: what is asked about, each with a path and a shape.
      call: how the user called: "label(model" and an open bracket.

    Examples:
      >>> from optax_ortho.labels.exact import Leaf
      >>> text = question([Leaf("mix", (4, 16, 16))], "label(model")
      >>> text.split(". ")[0]
      "'mix' (4, 16, 16): no layer and no name says what it is"
    """
    asked = by_kind(leaves)
    text = ""
    for number, longest in ((3, 120), (2, 120), (1, 120), (1, 40)):
        text = _text(asked[:number], asked[number:], call, longest)
        if len(text) <= MESSAGE:
            break
    return text


def refuse_functions(tree: Any) -> None:
    """Refuses a tree of functions, such as what `haiku.transform` returns.

    Args:
      tree: what was given as a model or as labels; one function is no tree.

    Raises:
      TypeError: every leaf is a function; the message says what to give instead.

    Examples:
      >>> refuse_functions({"up": 1.0})
      >>> try:
      ...     refuse_functions([max, min])
      ... except TypeError as error:
      ...     print(str(error).split(".")[0])
      A list of functions (0, 1) has no parameters to label
    """
    keyed, structure = jax.tree_util.tree_flatten_with_path(tree)
    if jax.tree_util.treedef_is_leaf(structure) or not keyed:
        return
    if not all(callable(leaf) for _, leaf in keyed):
        return
    if hasattr(tree, "apply") and hasattr(tree, "init"):
        names = ["init", "apply"]
        answer = (
            "label(transformed.apply, params, rng, *inputs), with params = "
            "transformed.init(rng, *inputs) or their shapes"
        )
    else:
        names = [path_of(keys) for keys, _ in keyed[:3]]
        answer = "label(function, params, *inputs), or label(params)"
    raise TypeError(
        f"A {type(tree).__name__} of functions ({', '.join(names)}) has no parameters "
        f"to label. Give the function that is called, its parameters and its inputs: "
        f"{answer}."
    )


def _text(
    shown: Sequence[Sequence[Placed]],
    rest: Sequence[Sequence[Placed]],
    call: str,
    longest: int,
) -> str:
    names = ", ".join(_names(kind, longest) for kind in shown)
    if rest:
        names += f", and {leaf_count(sum(map(len, rest)))} of other kinds"
    several = bool(rest) or len(shown) > 1 or len(shown[0]) > 1
    them, are = ("them", "they are") if several else ("it", "it is")
    code = ", ".join(f"{_pattern(kind, longest)!r}: {_answer(kind)}" for kind in shown)
    better = ""
    if "inputs" not in call:
        read = "model, inputs" if "model" in call else "function, params, inputs"
        better = f"label({read}) reads {them} from the forward pass; or "
    return (
        f"{names}: {_reason(shown, are)}. {better}{call}, "
        f"overrides={{{code}}}): MatrixAxes orthogonalizes {them}, a role such as "
        f"'embedding' or 'vector' leaves {them} to the fallback optimizer."
    )


def _reason(shown: Sequence[Sequence[Placed]], are: str) -> str:
    """What the program says of leaves that it does not decide, if there is one."""
    readings = [getattr(kind[0], "reading", None) for kind in shown]
    notes = [note for reading in readings if reading for note in reading.notes]
    reasons = "; ".join(dict.fromkeys(notes))
    return reasons if reasons else f"no layer and no name says what {are}"


def _names(kind: Sequence[Placed], longest: int) -> str:
    path, shape = kind[0].path, kind[0].shape
    if len(path) > longest:
        path = f"...{path[-longest:]}"
    alike = f" and {len(kind) - 1} like it" if len(kind) > 1 else ""
    return f"{path!r} {shape}{alike}"


def _answer(kind: Sequence[Placed]) -> str:
    said = said_role(kind[0].path)
    return AXES if said is None else repr(said)


def _pattern(kind: Sequence[Placed], longest: int) -> str:
    """A pattern of all leaves of a kind."""
    tails = {tail_of(leaf.path) for leaf in kind}
    tail = tails.pop() if len(tails) == 1 else numberless(tail_of(kind[0].path))
    inside = any(leaf.path.count("/") > tail.count("/") for leaf in kind)
    if len(tail) > longest:  # A star for the middle of long names.
        names = [
            name if len(name) < 20 else f"{name[:9]}*{name[-9:]}"
            for name in tail.split("/")
        ]
        tail = "/".join(names)
    return f"**/{tail}" if inside else tail
