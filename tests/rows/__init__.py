"""What `test_contract.py` checks: one row an optimizer, a direction or a stage.

A new optimizer is one more file of rows, named here. Whatever is special about it is
said in its rows, and no test asks for a name.
"""

from tests.rows import (
    adaptive_memory,
    aro,
    auon,
    dion,
    fismo,
    mkor,
    muon,
    namo,
    normuon,
    root,
    stages,
    trust_regions,
)
from tests.rows.row import LABELS as LABELS
from tests.rows.row import MATRICES as MATRICES
from tests.rows.row import MODEL as MODEL
from tests.rows.row import ONE_STEP as ONE_STEP
from tests.rows.row import RATE as RATE
from tests.rows.row import Row as Row
from tests.rows.row import new_params as new_params

ROWS = [
    *mkor.ROWS,
    *muon.ROWS,
    *dion.ROWS,
    *trust_regions.ROWS,
    *aro.ROWS,
    *fismo.ROWS,
    *normuon.ROWS,
    *auon.ROWS,
    *namo.ROWS,
    *root.ROWS,
    *adaptive_memory.ROWS,
    *stages.ROWS,
]
# Recipes whose update needs no argument of its own.
RECIPES = sorted(
    {row.factory for row in ROWS if row.is_optimizer and not row.extra},
    key=lambda factory: factory.__name__,
)
