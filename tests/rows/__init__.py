"""Rows for `test_contract.py`: one for each optimizer, direction or stage.

A new optimizer is one more file of rows here. Its particulars are in its rows, and no
test asks for a name.
"""

import importlib
import pkgutil

from tests.rows.row import LABELS as LABELS
from tests.rows.row import MATRICES as MATRICES
from tests.rows.row import MODEL as MODEL
from tests.rows.row import ONE_STEP as ONE_STEP
from tests.rows.row import RATE as RATE
from tests.rows.row import Row as Row
from tests.rows.row import new_params as new_params

MODULES = [
    importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
    if module.name != "row"
]
ROWS = [row for module in MODULES for row in module.ROWS]
# Recipes whose update needs no argument of its own.
RECIPES = sorted(
    {row.factory for row in ROWS if row.is_optimizer and not row.extra},
    key=lambda factory: factory.__name__,
)
