"""Roles that the names in a path say.

Names are read as whole words: ``MultiHeadAttention_0`` is multi, head, attention and
says nothing of an output head, and ``pre_norm_mlp`` is no norm. A role is said by the
parameter's own name or by its layer's, not by the name of a container of layers:
``MAPHead_0/MlpBlock_0/Dense_0/kernel`` is in no head.
"""

import re
from collections.abc import Iterable, Sequence

from optax_ortho.labels.vocabulary import (
    BIAS,
    BIAS_LEAF,
    COMPLEX,
    EMBEDDING,
    EMBEDDING_LAST,
    ENCODING,
    EXPERTS,
    GATED,
    HEAD,
    HEAD_NAMES,
    IN_HEAD,
    IN_TABLE,
    JOINS,
    LEARNED,
    MATRICES,
    NORM,
    NOT_HEAD_AFTER,
    PLACE,
    PLAIN,
    POSITION,
    ROUTER,
    SCALE,
    TIME,
    UNDECIDED,
    VECTOR_LEAF,
    WEIGHT,
)


def words(path: str) -> frozenset[str]:
    """The words of a path, in lower case.

    Examples:
      >>> sorted(words("LayerNorm_0/query_ln/scale"))
      ['layer', 'ln', 'norm', 'query', 'scale']
    """
    return frozenset(_in_order(path))


def said_role(path: str) -> str | None:
    """The role that the names of a path say, or None.

    The parameter's own name is read first, then its layer's; but everything inside a
    norm is of the norm.

    Examples:
      >>> said_role("decoder/lm_head/kernel"), said_role("blocks/ln_1/bias")
      ('head', 'norm')
      >>> said_role("blocks/MultiHeadAttention_0/query/kernel") is None
      True
    """
    said = _said(path)
    return None if said == UNDECIDED else said


def says_no_matrix(path: str) -> bool:
    """Whether a leaf may be no matrix by its name, which does not say what else.

    Such are half of a complex matrix, learned queries, and the ``kernel`` of what is
    called an embedding.

    Examples:
      >>> [says_no_matrix(path) for path in ("B_re", "patch_embed/kernel", "up/w")]
      [True, True, False]
    """
    return _said(path) == UNDECIDED


def says_head(path: str) -> bool:
    """Whether the layer that a parameter is of is named as an output head.

    Examples:
      >>> says_head("lm_head/kernel"), says_head("multi_head/kernel")
      (True, False)
      >>> says_head("head/layers_2/kernel"), says_head("heads/0/key/kernel")
      (True, False)
    """
    return said_role(path) == "head"


def routers(paths: Iterable[str]) -> frozenset[str]:
    """The paths of a tree that are in a router of experts.

    A name says router, or it is a gate in an MoE or beside experts, unless up, down or
    a router stand beside it: then it is a part of what is gated.

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


def says_kernel(path: str) -> bool:
    """Whether a leaf is named a kernel, as Flax and Keras name matrices.

    Examples:
      >>> says_kernel("up/kernel"), says_kernel("kernel/value")
      (True, False)
    """
    return _segments(path)[-1] == "kernel"


def _segments(path: str) -> list[str]:
    """The names of a path, and of one that PyTorch joined by dots."""
    return re.split("[/.]", path)


def _in_order(text: str) -> list[str]:
    return [word.lower() for word in _as_written(text)]


def _as_written(text: str) -> list[str]:
    # An acronym, or a word with or without a capital; digits and marks separate.
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text.replace("MoE", "Moe"))


def _meant(segment: str) -> list[str]:
    """The words of a name up to what it is: norm_b, ln_f, norm_before, head_weight."""
    said = _in_order(segment)
    for i, word in enumerate(said[1:], start=1):
        if word in JOINS:
            said = said[:i]
            break
    while len(said) > 1 and (len(said[-1]) == 1 or said[-1] in PLACE | WEIGHT):
        said.pop()
    return said


def _said(path: str) -> str | None:
    segments = _segments(path)
    if any(map(_names_a_norm, segments)):
        return "norm"
    *above, leaf = segments
    adapter = "lora" in words(path)  # Its b is a matrix, and in a head is no head.
    said = _said_of_leaf(leaf, b_is_bias=not adapter and bool(above))
    return said if said or adapter else _said_of_layer(above, leaf)


def _names_a_norm(segment: str) -> bool:
    said = _meant(segment)
    # What makes the scales of an adaptive norm is a matrix.
    return said[-1:] != [] and said[-1] in NORM and "ada" not in said


def _begins_with_norm(said: list[str]) -> bool:
    """Whether it is as ln_attn, in front of an attention, and not as norm_proj."""
    begins = said[:1] if said[:1] != ["layer"] else said[1:2]
    return bool(NORM & set(begins)) and not (PLAIN | IN_TABLE) & set(said[1:])


def _said_of_leaf(leaf: str, b_is_bias: bool) -> str | None:
    """The role that a parameter's own name says; plain b is a bias if `b_is_bias`."""
    said = _in_order(leaf)
    if not said:
        return None
    if said[-1] in BIAS_LEAF or (_is_b(leaf) and (b_is_bias or leaf != "b")):
        return "bias"
    if said[-1] in VECTOR_LEAF or (said[0] == "log" and not MATRICES & set(said)):
        return "vector"
    if said[-1] in COMPLEX | LEARNED:
        return UNDECIDED
    return _says(leaf)


def _is_b(leaf: str) -> bool:
    """b, b1, b_q, query_b; but a capital B is a matrix of its own, as is w_b."""
    said = _as_written(leaf)
    if said[0] == "b":
        return not MATRICES & set(said)  # b_proj projects to some b.
    return said[-1] == "b" and not (WEIGHT | {"lora"}) & set(_in_order(leaf))


def _said_of_layer(above: Sequence[str], leaf: str) -> str | None:
    """The role that the layer's names say, for a parameter whose own says none."""
    parameter = set(_in_order(leaf))
    passed: set[str] = set()
    for segment in reversed(above):
        said, role = _in_order(segment), _says(segment)
        if not passed and parameter & {"w", "weight"} and _begins_with_norm(said):
            return "norm"
        allowed = {"head": IN_HEAD, "embedding": IN_TABLE}.get(role or "", set())
        if role is not None and passed <= allowed:
            return _weighed(role, said, parameter, passed)
        if not set(said) <= IN_HEAD:
            return None
        passed.update(said)
    return None


def _weighed(
    role: str, said: list[str], parameter: set[str], passed: set[str]
) -> str | None:
    """The role of a layer for a parameter of it, unless the two contradict."""
    if (
        parameter and not parameter & WEIGHT
    ):  # A part with a name of its own: codebook/codes.
        return UNDECIDED
    if role == "embedding" and TIME & set(said):
        return None if passed or "kernel" in parameter else UNDECIDED
    if role != "head" and "kernel" in parameter and not passed:
        return UNDECIDED  # A table or a vector is not called so.
    return role


def _says(segment: str) -> str | None:
    said = _meant(segment)
    if not said:
        return None
    if said[-1] in BIAS:
        return "bias"
    if said[-1] in SCALE:
        return "vector"
    if _names_a_head(segment, said):
        return "head"
    return "embedding" if _names_a_table(said) else None


def _names_a_head(segment: str, said: list[str]) -> bool:
    if "".join(_in_order(segment)) in HEAD_NAMES:
        return True
    if len(said) > 1 and said[-1] in PLAIN:
        said = said[:-1]
    return said[-1] in HEAD and not set(said[-2:-1]) & NOT_HEAD_AFTER


def _names_a_table(said: list[str]) -> bool:
    if said[-1] in EMBEDDING_LAST or (said[-1] in ENCODING and POSITION & set(said)):
        return True
    places = [i for i, word in enumerate(said) if word in EMBEDDING]
    return bool(places) and not MATRICES & set(said[places[-1] :])
