"""Plots of optimizers and their plans: `pip install 'optax_ortho[plot]'`.

Every function returns a `matplotlib.figure.Figure` that is closed in
`matplotlib.pyplot`: as the last expression of a notebook's cell it is shown once, and a
script calls its ``savefig``. Text and background follow the current style, the colors
are visible on white and on black, and lines are labelled, so that a print in grey is
readable.
"""

from optax_ortho.plots.coefficients import coefficients as coefficients
from optax_ortho.plots.curves import curves as curves
from optax_ortho.plots.plan import plan as plan
from optax_ortho.plots.spectra import spectra as spectra

__all__ = ["coefficients", "curves", "plan", "spectra"]
