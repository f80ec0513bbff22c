"""Sets whose arrays are stored in a way of their own.

A format is a module with ``reads(golden)``, whether a set is stored that way, decided
by what the set says of itself and never by its name, and ``comparisons(golden)``, each
case and what compares it.
"""

from tests.golden.formats import (
    amm,
    aro,
    fismo,
    ghosts,
    mkor,
    mkor_rules,
    namo,
    root,
    speedrun,
)

FORMATS = [amm, aro, fismo, ghosts, mkor, mkor_rules, namo, root, speedrun]
