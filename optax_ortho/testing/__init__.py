"""The contract of orthogonalizers, stages and optimizers, for your own tests.

Each function checks one promise and raises an `AssertionError` that says what broke it
and where. `check_orthogonalizer` and `check_transformation` check everything that any
orthogonalizer and any transformation promises. Tolerances are relative to the largest
entry of a leaf.
"""

from optax_ortho.testing.optimizer import check_decreases as check_decreases
from optax_ortho.testing.optimizer import check_injected as check_injected
from optax_ortho.testing.optimizer import check_recovers as check_recovers
from optax_ortho.testing.optimizer import check_round_trip as check_round_trip
from optax_ortho.testing.optimizer import check_scale_free as check_scale_free
from optax_ortho.testing.optimizer import check_skips as check_skips
from optax_ortho.testing.orthogonalizer import (
    check_orthogonalizer as check_orthogonalizer,
)
from optax_ortho.testing.transformation import (
    check_abstract_init as check_abstract_init,
)
from optax_ortho.testing.transformation import check_dtypes as check_dtypes
from optax_ortho.testing.transformation import check_jit as check_jit
from optax_ortho.testing.transformation import check_map_params as check_map_params
from optax_ortho.testing.transformation import check_multi_steps as check_multi_steps
from optax_ortho.testing.transformation import check_one_trace as check_one_trace
from optax_ortho.testing.transformation import check_partition as check_partition
from optax_ortho.testing.transformation import (
    check_transformation as check_transformation,
)
from optax_ortho.testing.transformation import (
    check_unexpected_arguments as check_unexpected_arguments,
)
from optax_ortho.testing.transformation import check_vmap as check_vmap
from optax_ortho.testing.transformation import (
    check_zero_gradient as check_zero_gradient,
)
from optax_ortho.testing.transformation import with_extra as with_extra
from optax_ortho.testing.trees import assert_close as assert_close
from optax_ortho.testing.trees import assert_same_types as assert_same_types
from optax_ortho.testing.trees import random_like as random_like
from optax_ortho.testing.trees import spoil as spoil

__all__ = [
    "assert_close",
    "assert_same_types",
    "check_abstract_init",
    "check_decreases",
    "check_dtypes",
    "check_injected",
    "check_jit",
    "check_map_params",
    "check_multi_steps",
    "check_one_trace",
    "check_orthogonalizer",
    "check_partition",
    "check_recovers",
    "check_round_trip",
    "check_scale_free",
    "check_skips",
    "check_transformation",
    "check_unexpected_arguments",
    "check_vmap",
    "check_zero_gradient",
    "random_like",
    "spoil",
    "with_extra",
]
