"""What the names in a path say.

Names are read as whole words: ``MultiHeadAttention_0`` is multi, head, attention and
says nothing of an output head, and ``pre_norm_mlp`` is no norm.
"""

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
GATED = {"up", "down", *ROUTER}  # What lies beside a gate that is no router.


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


def routers(paths: Iterable[str]) -> frozenset[str]:
    """Of the paths of a tree, those in a router of experts.

    A name says router, or it is a gate in an MoE or beside experts, unless up, down or
    a router lie beside it: then it is a part of what is gated.

    Examples:
      >>> tree = ["0/mlp/gate/kernel", "0/mlp/experts/up", "1/mlp/gate/kernel"]
      >>> routers(tree), routers(["moe/gate", "moe/up"])
      (frozenset({'0/mlp/gate/kernel'}), frozenset())
    """
    paths = list(paths)
    beside: dict[tuple[str, ...], set[str]] = {}
    for path in paths:
        segments = _segments(path)
        for depth, segment in enumerate(segments):
            words_there = beside.setdefault(tuple(segments[:depth]), set())
            words_there.update(_in_order(segment))

    def is_router(path):
        segments = _segments(path)
        names = [_in_order(segment) for segment in segments]
        for depth, name in enumerate(names):
            others = beside[tuple(segments[:depth])]
            if ROUTER & set(name):
                return True
            if name[-1:] != ["gate"] or others & GATED:
                continue
            alone = len(name) == 1  # And not moe_gate.
            inside = names[depth - 1] if alone and depth else name
            if "moe" in inside or (alone and others & EXPERTS):
                return True
        return False

    return frozenset(filter(is_router, paths))


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
