"""How the work on many matrices is spread: one argument no optimizer mentions."""

from optax_ortho.layouts.local import Local as Local
from optax_ortho.layouts.local import local as local

__all__ = ["Local", "local"]
