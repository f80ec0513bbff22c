"""Records that transformations make of themselves for a summary."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

_LISTENER: contextvars.ContextVar[list | None] = contextvars.ContextVar(
    "optax_ortho_listener", default=None
)


@contextlib.contextmanager
def recording() -> Iterator[list]:
    """Collects what is recorded inside the block, in order.

    Examples:
      >>> with recording() as events:
      ...     record("hello")
      >>> events
      ['hello']
    """
    events: list = []
    token = _LISTENER.set(events)
    try:
        yield events
    finally:
        _LISTENER.reset(token)


def record(event: Any) -> None:
    """Hands an event to the innermost `recording`; nothing happens without one.

    A transformation records in its ``init``, which wrappers call through, so a summary
    of a whole chain needs only ``jax.eval_shape(tx.init, params)``.
    """
    events = _LISTENER.get()
    if events is not None:
        events.append(event)
