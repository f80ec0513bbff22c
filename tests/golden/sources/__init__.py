"""The equivalents of each author's optimizers in optax_ortho.

One small function a source: it takes the dtype of Newton-Schulz and the recorded
hyperparameters by their own names, with the defaults of the source, and returns the
optimizer of a whole tree. A hyperparameter that its signature does not name makes the
case unsupported, and so none is ever ignored. To add a source, write its function in a
file of its own and enter it in that file's `BUILDERS`.
"""

from collections.abc import Callable

import optax

from tests.golden.sources import auon, muon, normuon, root
from tests.golden.sources.common import Unsupported as Unsupported
from tests.golden.sources.common import call as call
from tests.golden.sources.common import flax_order as flax_order

BUILDERS: dict[tuple[str, str], Callable[..., optax.GradientTransformation]] = {
    **auon.BUILDERS,
    **muon.BUILDERS,
    **normuon.BUILDERS,
    **root.BUILDERS,
}
"""By repository and class."""
