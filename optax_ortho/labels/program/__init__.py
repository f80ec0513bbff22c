"""Roles and matrix axes from the program that a model runs.

The forward pass states what every parameter is for: a matrix is contracted with
activations, along axes that the equation names; a table is looked up; a bias is added.
`read` traces a function in shapes alone and follows every parameter to its uses, in one
abstract interpretation of the jaxpr. Names, module types and frameworks do not matter.

    views.py        axes of intermediate arrays, as axes of a parameter
    values.py       the facts about an intermediate array
    reader.py       the walk through a program, and the ledger of uses
    rules.py        the rule of every primitive: movement, joins, lookups,
                    elementwise, products, convolutions,
                    control
    readings.py     from uses to roles
    trace.py        the readings of a function
"""

from optax_ortho.labels.program.readings import CHOOSES as CHOOSES
from optax_ortho.labels.program.readings import INPUT_LAYER as INPUT_LAYER
from optax_ortho.labels.program.readings import UNUSED as UNUSED
from optax_ortho.labels.program.readings import Reading as Reading
from optax_ortho.labels.program.trace import read as read
