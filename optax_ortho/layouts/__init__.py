"""The distribution of the work on many matrices over devices: one argument of a recipe.

Each matrix is worked on by its owner, which is sent the pieces of others::

    leaf --shard--> pieces --all-to-all--> matrix on its owner --f--> result
                                                                        |
    leaf <--shard-- pieces <--all-to-all--------------------------------+

The terms of this package::

    leaf      an array of the parameters; a stack of matrices has batch axes
    shard     the part of a leaf on one device
    piece     the part of one matrix on one device, as rows and columns
    matrix    ``(fan_in, fan_out)``; a fused leaf has several blocks, each a matrix
    kind      all that a program needs to know of a matrix: shape, sharding, dtypes
    pool      the devices that divide the matrices of leaves with the same mesh axes
    owner     the device, or the group of devices along shared mesh axes, of a matrix
    round     the matrices on which the owners of a pool work at the same time
    slot      the room for one matrix in the stacks of an owner

`layout` has the protocol, and `local`, `sharded` and `owned` are its implementations.
`geometry` describes leaves on a mesh; `assignment` gives each matrix an owner and a
round; `rounds` runs them, a round as in `work`, with buffers and collectives in `pack`;
`stacks` and `owners` are the states of owners; `specs` are shardings.
"""

from optax_ortho.layouts.layout import Layout as Layout
from optax_ortho.layouts.local import Local as Local
from optax_ortho.layouts.local import local as local
from optax_ortho.layouts.owned import Owned as Owned
from optax_ortho.layouts.owned import owned as owned
from optax_ortho.layouts.owned import replicated as replicated
from optax_ortho.layouts.sharded import Sharded as Sharded
from optax_ortho.layouts.sharded import sharded as sharded
from optax_ortho.layouts.stacks import OwnerEntries as OwnerEntries
from optax_ortho.layouts.stacks import OwnerStacks as OwnerStacks

__all__ = [
    "Layout",
    "Local",
    "Owned",
    "OwnerEntries",
    "OwnerStacks",
    "Sharded",
    "local",
    "owned",
    "replicated",
    "sharded",
]
