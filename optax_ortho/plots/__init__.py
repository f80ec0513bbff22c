"""Pictures of what an optimizer does: `pip install 'optax_ortho[plot]'`.

Every function returns a `matplotlib.figure.Figure` that `matplotlib.pyplot` does not
hold: as the last expression of a notebook's cell it is shown once, and a script calls
its ``savefig``. Ink and background are those of the style in use, and the colors are
seen on white and on black; lines carry their names, so a print in grey can be read.
"""

from optax_ortho.plots.coefficients import coefficients as coefficients
from optax_ortho.plots.curves import curves as curves
from optax_ortho.plots.plan import plan as plan
from optax_ortho.plots.spectra import spectra as spectra

__all__ = ["coefficients", "curves", "plan", "spectra"]
