"""What the names in a path say.

Names are read as whole words: ``MultiHeadAttention_0`` is multi, head, attention and
says nothing of an output head, and ``pre_norm_mlp`` is no norm.
"""

import itertools
import re
from collections.abc import Iterable

BIAS = {"bias", "biases"}
NORM = {
    *("norm", "normalization", "layernorm", "rmsnorm", "batchnorm", "groupnorm"),
    *("ln", "bn", "gn"),
}
SCALE = {"scale", "scales", "gamma"}
HEAD = {"head", "heads", "lmhead", "classifier", "logits", "unembed", "unembedding"}
NOT_HEAD_AFTER = {"multi", "attention", "attn", "pre"}  # pre_logits is a hidden layer.
EMBEDDING = {
    *("embed", "embedding", "embeddings", "embedder", "emb", "wte", "wpe"),
    *("posemb", "posembed", "table", "codebook"),
}
EMBEDDING_LAST = {"pos", "position", "positions", "token", "tokens"}
LAYER = {"dense", "linear", "layer"}  # As in logits_dense: what it is, not what for.
PLACE = {"before", "after"}  # As in layernorm_before.
ROUTER = {"router", "routers"}
EXPERTS = {"expert", "experts"}


def words(path: str) -> frozenset[str]:
    """The words of a path, in lower case.

    Examples:
      >>> sorted(words("LayerNorm_0/query_ln/scale"))
      ['layer', 'ln', 'norm', 'query', 'scale']
    """
    return frozenset(_in_order(path))


def said_role(path: str) -> str | None:
    """The role that the names of a path say, or None.

    The name nearest to the leaf decides, but everything inside a norm is of the norm.

    Examples:
      >>> said_role("decoder/lm_head/kernel"), said_role("blocks/ln_1/bias")
      ('head', 'norm')
      >>> said_role("blocks/MultiHeadAttention_0/query/kernel") is None
      True
    """
    roles = [_says(segment) for segment in _segments(path)]
    roles = [role for role in roles if role is not None]
    if "norm" in roles:
        return "norm"
    return roles[-1] if roles else None


def says_head(path: str) -> bool:
    """Whether some name in the path is that of an output head.

    Examples:
      >>> says_head("lm_head/kernel"), says_head("multi_head/kernel")
      (True, False)
    """
    return any(_says(segment) == "head" for segment in _segments(path))


def says_router(path: str, ndim: int) -> bool:
    """Whether a path is in a router of experts: by its name, or as the gate of an MoE.

    A leaf with more than two axes that is itself named gate is none: experts that are
    stacked have a gate each.

    Args:
      path: the leaf's path.
      ndim: how many axes it has.

    Examples:
      >>> says_router("moe/gate/kernel", 2), says_router("mlp/gate/kernel", 2)
      (True, False)
      >>> says_router("moe/gate", 3), says_router("router/kernel", 3)
      (False, True)
    """
    names = [_in_order(segment) for segment in _segments(path)]
    if any(ROUTER & set(name) for name in names):
        return True
    if ndim > 2:
        names = names[:-1]
    return any(
        name[-1:] == ["gate"] and "moe" in (above if len(name) == 1 else name)
        for above, name in itertools.pairwise([[], *names])
    )


def gates_beside_experts(paths: Iterable[str]) -> frozenset[str]:
    """The paths that are in a gate that lies beside experts, and so routes to them.

    Examples:
      >>> tree = ["mlp/gate/kernel", "mlp/experts/0/up/kernel", "mlp/up/kernel"]
      >>> gates_beside_experts(tree)
      frozenset({'mlp/gate/kernel'})
    """
    gates: dict[str, set[tuple[str, ...]]] = {}
    mixtures = set()
    for path in paths:
        segments = _segments(path)
        for depth, segment in enumerate(segments):
            name, inside = _in_order(segment), tuple(segments[:depth])
            if EXPERTS & set(name):
                mixtures.add(inside)
            elif name == ["gate"]:
                gates.setdefault(path, set()).add(inside)
    return frozenset(path for path, inside in gates.items() if inside & mixtures)


def says_out_first(path: str) -> bool:
    """Whether the name of a leaf is a weight's, which PyTorch keeps as (out, in).

    Equinox and Haliax do as well; Flax and Haiku name a matrix kernel or w.

    Examples:
      >>> says_out_first("mlp/0/weight"), says_out_first("weight/kernel")
      (True, False)
    """
    return "weight" in _in_order(_segments(path)[-1])


def _segments(path: str) -> list[str]:
    """The names of a path, and of one that PyTorch joined by dots."""
    return re.split("[/.]", path)


def _in_order(text: str) -> list[str]:
    # An acronym, or a word with or without a capital; digits and marks separate.
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text.replace("MoE", "Moe"))
    return [word.lower() for word in found]


def _says(segment: str) -> str | None:
    said = _in_order(segment)
    while len(said) > 1 and (len(said[-1]) == 1 or said[-1] in PLACE):  # ln_f, norm_b
        said.pop()
    if not said:
        return None
    if said[-1] in BIAS:
        return "bias"
    if said[-1] in NORM:
        return "norm"
    if said[-1] in SCALE:
        return "vector"
    if _names_a_head(said):
        return "head"
    if EMBEDDING & set(said) or said[-1] in EMBEDDING_LAST:
        return "embedding"
    return None


def _names_a_head(said: list[str]) -> bool:
    if len(said) > 1 and said[-1] in LAYER:
        said = said[:-1]
    return said[-1] in HEAD and not set(said[-2:-1]) & NOT_HEAD_AFTER
