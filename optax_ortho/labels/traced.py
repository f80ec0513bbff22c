"""Tracing a model's call, with an error that says what to look at."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optax_ortho.labels.exact import Leaf
from optax_ortho.labels.program import Reading, read
from optax_ortho.labels.refusals import MESSAGE


def readings(
    function: Callable[..., Any],
    params: Any,
    inputs: Sequence[Any],
    arguments: Mapping[str, Any],
    constants: Any = None,
) -> dict[str, Reading]:
    """The reading of every parameter, by its path.

    Args:
      function: called as ``function(params, *inputs, **arguments)``, or with
        `constants` after the parameters if there are any.
      params: a tree of parameters.
      inputs: the positional arguments of the call.
      arguments: its keyword arguments.
      constants: a tree of other arrays that the call needs (see `read`).

    Raises:
      ValueError: the call cannot be traced.
    """

    def call(*given):
        *first, inputs, arguments = given
        return function(*first, *inputs, **arguments)

    try:
        statements = read(
            call, params, tuple(inputs), dict(arguments), constants=constants
        )
    except Exception as error:
        text = " ".join(str(error).split())
        shown = text if len(text) < MESSAGE // 2 else f"{text[: MESSAGE // 2]} ..."
        raise ValueError(
            f"label could not trace the call: {type(error).__name__}: {shown} Are "
            "these the inputs that the model is called with? Keyword arguments go "
            "through, as train=False."
        ) from error
    return {reading.path: reading for reading in statements}


def leaves(statements: Mapping[str, Reading]) -> list[Leaf]:
    """The parameters of a function, of which only the program is known."""
    return [Leaf(path, each.shape, reading=each) for path, each in statements.items()]
