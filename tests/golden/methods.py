"""The Newton-Schulz method that a description in words means.

"KJ, 5 steps, X/(||X||_F+1e-7), coefficients (3.4445,-4.775,2.0315)"
"torch.optim.Muon: X/max(||X||_F,1e-7); 2-D only"
"dion 5-step schedule (4.0848,-6.8946,2.9270)...(2.8366,-3.0525,1.2012); eps 1e-7"
"Polar Express 5 steps, X/(1.02||X||_F+1e-6)"
"""

import re
from typing import Any

from optax_ortho.orthogonalizers import (
    COEFFICIENTS,
    NewtonSchulz,
    clamped_frobenius,
    frobenius,
)
from tests.golden.sources import Unsupported

NUMBER = r"(-?\d[\d.]*(?:e-?\d+)?)"
TRIPLE = re.compile(rf"\(\s*{NUMBER}\s*,\s*{NUMBER}\s*,\s*{NUMBER}\s*\)")
STEPS = re.compile(r"(\d+|\bone|\btwo|\bthree|\bfour)(?:-| KJ | )steps?\b")
EPS = re.compile(rf"(?:\|\|X\|\|_F\s*[+,]\s*|\beps\s+){NUMBER}")
WORDS = {"one": 1, "two": 2, "three": 3, "four": 4}
NAMED = {
    "Polar Express": "polar_express",
    "KJ": "keller_jordan",
    "torch.optim": "keller_jordan",
}


def method(description: str, dtype: Any) -> NewtonSchulz:
    """The orthogonalizer of a description, computing in `dtype`.

    Where it says nothing, 5 steps and an eps of 1e-7 are meant.

    Raises:
      Unsupported: the description names no coefficients, or unknown ones.
    """
    steps = STEPS.search(description)
    eps = EPS.search(description)
    return NewtonSchulz(
        coefficients(description),
        steps=int(WORDS.get(steps[1], steps[1])) if steps else 5,
        dtype=dtype,
        eps=float(eps[1]) if eps else 1e-7,
        prescale=clamped_frobenius if "max(||X||_F" in description else frobenius,
        unsafe=True,
    )


def coefficients(description: str) -> Any:
    """One triple for every step, or the name of a row of the library's table."""
    triples = [tuple(map(float, match)) for match in TRIPLE.findall(description)]
    if len(triples) == 1:
        return tuple(triples)
    if len(triples) > 1:  # The first and the last of a schedule.
        for name, table in COEFFICIENTS.items():
            if (table.rows[0], table.rows[-1]) == (triples[0], triples[-1]):
                return name
    for word, name in NAMED.items():
        if word in description and not triples:
            return name
    raise Unsupported(f"optax_ortho does not know the coefficients of {description!r}")
