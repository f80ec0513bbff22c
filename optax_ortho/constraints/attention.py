"""Query and key leaves of attention layers, and the axes of their heads."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_ortho.matrices import path_of


class Heads(NamedTuple):
    """A kernel or a bias of queries or keys, and the axis of its heads.

    Attributes:
      path: path of the leaf.
      axis: the axis of the heads. Flax's kernels are ``(features, heads, head_dim)``
        and its biases ``(heads, head_dim)``.
      head_dim: number of entries of a head along that axis: 1, or all of them in a
        dense kernel ``(features, heads * head_dim)``, whose `axis` is -1.
      batch: the axes of stacked layers, in their order in the logits; None means the
        leading axes of the leaf.
    """

    path: str
    axis: int = -2
    head_dim: int = 1
    batch: tuple[int, ...] | None = None


class Attention(NamedTuple):
    """The leaves of an attention layer, or of a stack of such layers.

    Attributes:
      query: the leaves that compute queries: the kernel, and the bias if there is one.
      key: the leaves that compute keys.
    """

    query: tuple[Heads, ...]
    key: tuple[Heads, ...]


def flax_attention(params: Any) -> dict[str, Attention]:
    """The attention layers of Flax, NNX or Linen, found by the names of their leaves.

    A layer has kernels of ``query`` and ``key`` that produce heads and a kernel of
    ``out`` that consumes them, as in `flax.nnx.MultiHeadAttention` and
    `flax.linen.MultiHeadDotProductAttention`. Axes of stacked layers have to come
    first, where `flax.nnx.vmap` and `flax.linen.scan` put them by default. Layers with
    ``normalize_qk`` are skipped: scaling their kernels does not change their logits.

    Args:
      params: the parameters, or their shapes.

    Returns:
      The layers by path.

    Raises:
      ValueError: no attention layer was found.

    Examples:
      >>> from flax import nnx
      >>> model = nnx.MultiHeadAttention(2, 4, use_bias=False, rngs=nnx.Rngs(0))
      >>> flax_attention({"layer": nnx.state(model, nnx.Param)})["layer"].key
      (Heads(path='layer/key/kernel', axis=-2, head_dim=1, batch=None),)
    """
    leaves = leaves_by_path(params)
    shapes = {path: jnp.shape(leaf) for path, leaf in leaves.items()}
    layers = {}
    for path in shapes:
        name, _, rest = f"/{path}".rpartition("/query/")
        layer = name.removeprefix("/")
        inside = f"{layer}/" if layer else ""
        if rest != "kernel" or not _has_heads(shapes, inside):
            continue
        query, key = (
            tuple(
                Heads(f"{inside}{side}/{leaf}")
                for leaf in ("kernel", "bias")
                if f"{inside}{side}/{leaf}" in shapes
            )
            for side in ("query", "key")
        )
        layers[layer] = Attention(query, key)
    if not layers:
        raise ValueError(
            "flax_attention needs an attention layer of Flax that does not normalize "
            "queries and keys, and found none. Name leaves with Attention and Heads."
        )
    return layers


def _has_heads(shapes: dict[str, tuple[int, ...]], inside: str) -> bool:
    """Whether the kernels under a path form an attention layer with heads."""
    query, key, out = (
        shapes.get(f"{inside}{name}/kernel", ()) for name in ("query", "key", "out")
    )
    if len(query) < 3 or not len(query) == len(key) == len(out):
        return False
    # Stacked dense kernels have three axes too, but none consumes (heads, head_dim).
    consumed, produced = (*out[:-3], *out[-3:-1]), (*query[:-3], *query[-2:])
    return consumed == produced and f"{inside}query_ln/scale" not in shapes


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path; a dict whose keys are paths is read as a tree.

    Examples:
      >>> leaves_by_path({"a/b": 1}) == leaves_by_path({"a": {"b": 1}})
      True
    """
    keyed = jax.tree_util.tree_leaves_with_path(tree)
    return {path_of(keys): leaf for keys, leaf in keyed}
