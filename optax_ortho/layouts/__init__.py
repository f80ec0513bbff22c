"""How the work on many matrices is spread: one argument no optimizer mentions."""

from optax_ortho.layouts.local import Local as Local
from optax_ortho.layouts.local import local as local
from optax_ortho.layouts.owned import Owned as Owned
from optax_ortho.layouts.owned import owned as owned
from optax_ortho.layouts.replicated import replicated as replicated
from optax_ortho.layouts.sharded import Sharded as Sharded
from optax_ortho.layouts.sharded import sharded as sharded

__all__ = ["Local", "Owned", "Sharded", "local", "owned", "replicated", "sharded"]
