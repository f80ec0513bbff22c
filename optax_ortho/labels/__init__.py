"""Labels: what each leaf is for, and which of its axes make a matrix."""

from optax_ortho.labels.argument import resolve as resolve
from optax_ortho.labels.model import label as label
from optax_ortho.labels.policy import Policy as Policy
from optax_ortho.labels.roles import ROLES as ROLES
from optax_ortho.labels.roles import UNDECIDED as UNDECIDED
from optax_ortho.labels.roles import Label as Label
from optax_ortho.labels.roles import Labeller as Labeller
from optax_ortho.labels.rules import by_name as by_name
from optax_ortho.labels.table import Labels as Labels
from optax_ortho.labels.words import words as words
