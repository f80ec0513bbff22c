"""The rule of every primitive that can be read, by its name.

A primitive that is not here, and calls no program of its own, cannot be read: the
parameters that reach it are undecided, with its name.
"""

from optax_ortho.labels.program import (
    control,
    convolutions,
    elementwise,
    joins,
    lookups,
    movement,
    products,
)
from optax_ortho.labels.program.reader import Rule

PRIMITIVES = {
    # Nothing changes but the type, the name or the placement.
    movement.identity: """
        convert_element_type copy reduce_precision rev name real conj device_put
        sharding_constraint reshard optimization_barrier pvary pbroadcast psum
        psum_invariant pmax pmin ppermute bitcast_convert_type""",
    movement.stop_gradient: "stop_gradient",
    # Axes move.
    movement.transpose: "transpose",
    movement.reshape: "reshape",
    movement.squeeze: "squeeze",
    movement.broadcast_in_dim: "broadcast_in_dim",
    movement.tile: "tile",
    movement.pad: "pad",
    movement.slice_: "slice",
    movement.split: "split",
    movement.unstack: "unstack",
    joins.stack: "stack",
    joins.concatenate: "concatenate",
    movement.update: """
        dynamic_update_slice scatter scatter-add scatter-sub scatter-mul scatter-max
        scatter-min""",
    movement.resize: """
        all_gather all_gather_invariant all_gather_reduced reduce_scatter
        unreduced_reduce_scatter""",
    # Entries by an index, and indices that were chosen.
    lookups.gather: "gather",
    lookups.dynamic_slice: "dynamic_slice",
    lookups.iota: "iota",
    lookups.choose: "top_k sort approx_top_k",
    lookups.choose_along: "argmax argmin",
    lookups.noise: """
        random_seed random_bits random_wrap random_unwrap random_fold_in random_split
        random_clone random_gamma threefry2x32 rng_bit_generator rng_uniform""",
    lookups.reduce: """
        reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor""",
    # Elementwise.
    elementwise.elementwise: """
        add sub mul div add_any max min pow integer_pow square sqrt rsqrt cbrt neg abs
        sign exp exp2 log log1p expm1 tanh logistic sin cos tan sinh cosh asin acos atan
        asinh acosh atanh atan2 erf erfc erf_inv lgamma digamma clamp select_n complex
        imag floor ceil round rem is_finite not nextafter eq ne lt le gt ge and or xor
        shift_left shift_right_logical shift_right_arithmetic population_count""",
    # Matrices.
    products.dot_general: "dot_general",
    products.ragged_dot_general: "ragged_dot_general",
    convolutions.convolution: "conv_general_dilated",
    # Loops and branches; jit, remat, custom derivatives and shard_map are entered.
    control.scan: "scan",
    control.while_: "while",
    control.cond: "cond",
    # Kernels have a program, but of blocks of memory.
    movement.opaque: "pallas_call custom_linear_solve",
}
RULES: dict[str, Rule] = {
    name: rule for rule, names in PRIMITIVES.items() for name in names.split()
}
