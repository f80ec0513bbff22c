"""What `test_contract.py` checks: one row an optimizer, a direction or a stage.

A new optimizer is one more file of rows, named here. Whatever is special about it is
said in its rows, and no test asks for a name.
"""

import optax_ortho
from tests.rows import muon, stages
from tests.rows.row import LABELS as LABELS
from tests.rows.row import MATRICES as MATRICES
from tests.rows.row import MODEL as MODEL
from tests.rows.row import ONE_STEP as ONE_STEP
from tests.rows.row import RATE as RATE
from tests.rows.row import Row as Row
from tests.rows.row import new_params as new_params

ROWS = [
    *muon.ROWS,
    *stages.ROWS,
]
# Recipes with no argument but their learning rate.
RECIPES = [optax_ortho.muon]
