"""Constraints on the weights and on attention logits, as links of an Optax chain."""

from optax_ortho.constraints.attention import Attention as Attention
from optax_ortho.constraints.attention import Heads as Heads
from optax_ortho.constraints.attention import flax_attention as flax_attention
from optax_ortho.constraints.cautious_decay import cautious_decay as cautious_decay
from optax_ortho.constraints.hyperball import HyperballState as HyperballState
from optax_ortho.constraints.hyperball import hyperball as hyperball
from optax_ortho.constraints.qk_clip import QkClipState as QkClipState
from optax_ortho.constraints.qk_clip import qk_clip as qk_clip

__all__ = [
    "Attention",
    "Heads",
    "HyperballState",
    "QkClipState",
    "cautious_decay",
    "flax_attention",
    "hyperball",
    "qk_clip",
]
