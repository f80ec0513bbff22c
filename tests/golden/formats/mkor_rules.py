"""Published forms of MKOR's inverse-factor update, from the identity, side by side.

v                  vectors, one a step
{rule}/step{t}     the inverse after step t
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax.numpy as jnp
import numpy as np

from optax_ortho.kronecker import Damped, MovingAverage, Printed, Rule
from tests.golden.compare import Comparison, arrays_under, largest
from tests.golden.sets import GoldenSet, tolerance
from tests.golden.sources.common import Unsupported

RULES: dict[str, Callable[[float], Rule]] = {
    "code_damped": lambda gamma: Damped(),  # Its numbers stand in the code.
    "sm_exact_ema": MovingAverage,
    "paper_printed": Printed,
    "hkor_G": lambda gamma: MovingAverage(gamma, weight=(1 - gamma) ** 2),
}
"""From the set's gamma, by the names of the keys."""


def reads(golden: GoldenSet) -> bool:
    """Whether the set says that it is one of rules."""
    facts = golden.facts
    return "gamma" in facts and {"v", "{rule}/step{t}"} <= set(facts.get("keys", ()))


def comparisons(golden: GoldenSet) -> Iterator[tuple[str, Callable[[], Comparison]]]:
    """Each rule, and what compares it."""
    rules = dict.fromkeys(key.split("/")[0] for key in golden.arrays if "/" in key)
    for rule in rules:
        yield rule, partial(compare, golden, rule)


def compare(golden: GoldenSet, name: str) -> Comparison:
    """Absorbs the vectors; the worst step decides."""
    if name not in RULES:
        raise Unsupported(f"optax_ortho has no rule {name!r}")
    rule = RULES[name](golden.facts["gamma"])
    expected = arrays_under(golden.arrays, f"{name}/step")
    vectors = golden.arrays["v"]
    inverse, errors = jnp.eye(vectors.shape[1]), []
    for t, v in enumerate(vectors, start=1):
        inverse = rule.absorb(inverse, jnp.asarray(v))
        errors.append(largest(np.asarray(inverse) - expected[str(t)]))
    floor = golden.facts.get("tol", golden.facts.get("err32"))
    return Comparison(float(np.max(errors)), tolerance(jnp.float32, floor, None, 0.0))
