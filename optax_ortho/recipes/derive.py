"""Recipes derived from their directions: body, documentation and pickling."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

import optax

from optax_ortho.recipes.arguments import DEFAULTS, Common
from optax_ortho.recipes.groups import matrices_else_fallback

Factory = TypeVar("Factory", bound=Callable)

ARGUMENTS = """\
  learning_rate: step size of the matrices, or a schedule of the step count. The update
    of a matrix has an RMS of about 0.2 times it.
"""
RETURNS = """\
  The optimizer; ``update`` needs ``params`` only where something decays.

"""
RAISES = """\
  ValueError: an argument out of range, or at init labels that do not fit the
    parameters.
  TypeError: an array where `optax.inject_hyperparams` replaced a function.

"""


def recipe_of(
    direction: Callable[..., optax.GradientTransformation],
    build: Callable[..., optax.GradientTransformation] = matrices_else_fallback,
) -> Callable[[Factory], Factory]:
    r"""Derives ``x(learning_rate, ...)`` from ``scale_by_x(...)``.

    The decorated function declares the typed signature, and its docstring documents the
    recipe alone; its body is ``...``. Each argument is handed to the direction,
    to `build`, or to both, by name. A signature with ``**common: Unpack[Common]`` gets
    the arguments that all recipes share.

    The docstring gets the sections that it lacks. Its ``Args`` come from
    the direction and from `Common`, unless it documents an argument itself.

    Args:
      direction: ``scale_by_x``. It may take ``axes``, ``layout`` and ``nonfinite``,
        which a recipe decides.
      build: makes the optimizer from a name, a function that makes the direction from
        axes and layout, the learning rate, and the other arguments that it names.

    Returns:
      A decorator. The recipe's optimizers can be pickled if its arguments can be.

    Raises:
      TypeError: the signature has an argument that neither `direction` nor `build`
        takes, or that nothing documents; or a call has one that the signature lacks.

    Examples:
      >>> def scale_by_power(power: float = 0.5, axes=None, layout=None):
      ...     '''Powers of gradients.
      ...
      ...     Args:
      ...       power: the exponent.
      ...     '''
      ...     return optax.stateless(lambda g, _: jax.tree.map(lambda x: x**power, g))
      >>> @recipe_of(scale_by_power)
      ... def power_descent(learning_rate, power=0.5, **common):
      ...     '''Descent by powers of gradients.'''
      ...     ...
      >>> list(inspect.signature(power_descent).parameters)[:3]
      ['learning_rate', 'power', 'weight_decay']
      >>> print(*power_descent.__doc__.splitlines()[5:7], sep="\n")
        power: the exponent.
        weight_decay: decoupled decay of the matrices, multiplied by the learning rate.
    """
    directed, built = _names(direction), _names(build)

    def derive(declared: Factory) -> Factory:
        name = declared.__name__
        signature = _written_out(inspect.signature(declared))
        homeless = set(signature.parameters) - directed - built
        if homeless:
            raise TypeError(
                f"{name} has arguments that neither its direction nor its build takes: "
                f"{sorted(homeless)}. Add them to one, or leave them out."
            )

        @functools.wraps(declared)
        def recipe(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            handed = {key: given[key] for key in given if key in directed}
            rest = {key: given[key] for key in given if key in built}

            def made(axes=None, layout=None):
                # The recipe has one guard around all groups.
                decided = {"axes": axes, "layout": layout, "nonfinite": None}
                decided = {key: decided[key] for key in decided if key in directed}
                return direction(**{**handed, **decided})

            return build(name, made, **rest)

        recipe.__dict__["__signature__"] = signature
        recipe.__doc__ = _documentation(declared, direction, signature)
        return cast(Factory, picklable(recipe))

    return derive


def _names(function: Callable) -> set[str]:
    """The arguments that a function takes; ``**common`` stands for the shared ones."""
    parameters = inspect.signature(function).parameters
    return set(parameters) | (set(DEFAULTS) if "common" in parameters else set())


def _written_out(signature: inspect.Signature) -> inspect.Signature:
    """A signature with the shared arguments in the place of ``**common``."""
    parameters = dict(signature.parameters)
    if parameters.pop("common", None) is None:
        return signature
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
        for name, value in DEFAULTS.items()
    ]
    return signature.replace(parameters=[*parameters.values(), *shared])


def _documentation(
    declared: Callable, direction: Callable, signature: inspect.Signature
) -> str:
    """The docstring of a recipe, completed from its direction and from `Common`."""
    documented, inherited = _sections(declared), _sections(direction)
    texts = (
        _entries(ARGUMENTS)
        | _entries(inherited["Args"])
        | _entries(_sections(Common)["Attributes"])
        | _entries(documented.get("Args", ""))
    )
    missing = [name for name in signature.parameters if name not in texts]
    if missing:
        raise TypeError(
            f"{declared.__name__} has arguments that neither it nor its direction "
            f"documents: {missing}. Add them to the Args of a docstring."
        )
    lines = (f"  {name}: {texts[name]}" for name in signature.parameters)
    sections = {"Returns": RETURNS, "Raises": RAISES, **documented}
    sections["Args"] = "".join(lines) + "\n"
    order = ("Args", "Returns", "Raises", "Examples", "References")
    titled = (f"{title}:\n{sections[title]}" for title in order if title in sections)
    return f"{documented['']}\n\n{''.join(titled)}"


def _sections(documented: Any) -> dict[str, str]:
    """The sections of a Google-style docstring by title; "" is all before them."""
    titles = r"^(Args|Attributes|Returns|Raises|Examples|References):\n"
    parts = re.split(titles, inspect.getdoc(documented) or "", flags=re.MULTILINE)
    texts = (text.rstrip() + "\n\n" for text in parts[2::2])
    return {"": parts[0].rstrip(), **dict(zip(parts[1::2], texts, strict=True))}


def _entries(section: str) -> dict[str, str]:
    """The descriptions of arguments by name."""
    parts = re.split(r"^  (\w+): ", section, flags=re.MULTILINE)
    texts = (text.rstrip() + "\n" for text in parts[2::2])
    return dict(zip(parts[1::2], texts, strict=True))


class Made(optax.GradientTransformationExtraArgs):
    """A transformation that remembers the call that made it, so it can be pickled.

    Its functions are closures, which pickle refuses; the call has the same meaning.
    """

    def __reduce__(self):
        return _make, self.__dict__["made_from"]


def _make(factory: Callable, args: tuple, kwargs: dict) -> Any:
    return factory(*args, **kwargs)


def picklable(factory: Factory) -> Factory:
    """Lets the transformations of a factory be pickled, if its arguments can be.

    Args:
      factory: a function of a module, which pickle finds by its name.

    Returns:
      The factory; a transformation that it makes is pickled as the call.
    """

    @functools.wraps(factory)
    def remembering(*args, **kwargs):
        made = Made(*factory(*args, **kwargs))
        made.__dict__["made_from"] = remembering, args, kwargs
        return made

    return cast(Factory, remembering)
