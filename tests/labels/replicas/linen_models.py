"""Small replicas of models of images in Flax Linen, with the labels that are right.

What `plain.py` says of the labels holds here.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from optax_ortho import label
from tests.labels.replicas.plain import array, tokens

Attention = nn.MultiHeadDotProductAttention


class MapHead(nn.Module):
    """A learned query that attends to all tokens."""

    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.normal(), (1, 1, x.shape[-1]))
        probe = jnp.tile(probe, (len(x), 1, 1))
        x = Attention(2, name="attention")(probe, x)
        y = nn.Dense(16, name="up")(nn.LayerNorm()(x))
        return (x + nn.Dense(8, name="down")(nn.gelu(y)))[:, 0]


class ViT(nn.Module):
    classes: int | None = 10

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(8, (4, 4), strides=4, padding="VALID", name="embedding")(images)
        x = x.reshape(len(x), -1, 8)
        shape = (1, x.shape[1], 8)
        x += self.param("pos_embedding", nn.initializers.normal(), shape)
        for i in range(2):
            y = nn.LayerNorm()(x)
            x += Attention(2, name=f"encoderblock_{i}_attn")(y, y)
            y = nn.Dense(32, name=f"encoderblock_{i}_up")(nn.LayerNorm()(x))
            x += nn.Dense(8, name=f"encoderblock_{i}_down")(nn.gelu(y))
        x = MapHead(name="MAPHead_0")(nn.LayerNorm()(x))
        return x if self.classes is None else nn.Dense(self.classes, name="fc")(x)


VIT = {
    "embedding/kernel": "0,1,2 -> 3",
    "pos_embedding": "embedding",
    "MAPHead_0/probe": "small",
    "**/out/kernel": "0,1 -> 2",
    "**/query/kernel": "0 -> 1,2",
    "**/key/kernel": "0 -> 1,2",
    "**/value/kernel": "0 -> 1,2",
    "**/*_up/kernel": "0 -> 1",
    "**/*_down/kernel": "0 -> 1",
    "MAPHead_0/*/kernel": "0 -> 1",
    "**/bias": "small",
    "**/scale": "norm",
}


def vit():
    """ViT with a MAP head, as in big_vision: a container called head is none."""
    return label(ViT(), array(2, 8, 8, 3)), {"fc/kernel": "head"} | VIT


class CLIP(nn.Module):
    @nn.compact
    def __call__(self, images, text):
        x = ViT(None, name="image")(images)
        y = nn.Embed(50, 8, name="token")(text)
        y += Attention(2, name="text_attn")(y, y)
        x = nn.Dense(6, use_bias=False, name="visual_projection")(x)
        y = nn.Dense(6, use_bias=False, name="text_projection")(y[:, -1])
        scale = self.param("logit_scale", nn.initializers.ones, ())
        x, y = (z / jnp.linalg.norm(z, axis=-1, keepdims=True) for z in (x, y))
        return jnp.exp(scale) * x @ y.T


def clip():
    """CLIP: two towers; the two projections are the ends of both, and called heads."""
    return label(CLIP(), array(2, 8, 8, 3), tokens(2, 5)), {
        "token/embedding": "embedding",
        "*_projection/kernel": "head",
        "logit_scale": "scalar",
        "text_attn/out/kernel": "0,1 -> 2",
        "text_attn/*/kernel": "0 -> 1,2",
    } | {f"**/{path}": value for path, value in VIT.items()}


class UNet(nn.Module):
    @nn.compact
    def __call__(self, images, time):
        angles = time[:, None] * jnp.arange(1.0, 5.0)[None]
        t = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        t = nn.Dense(8, name="time_embedding")(t)
        x, skips = nn.Conv(4, (3, 3), name="conv_in")(images), []
        for width in (4, 8):
            y = nn.Conv(width, (3, 3))(nn.silu(nn.GroupNorm(2)(x)))
            y += nn.Dense(width)(nn.silu(t))[:, None, None]
            x = nn.Conv(width, (1, 1), name=f"skip_{width}")(x) + y
            skips.append(x)
            x = nn.Conv(width, (3, 3), strides=2, name=f"down_{width}")(x)
        for width in (8, 4):
            x = nn.ConvTranspose(width, (2, 2), strides=(2, 2))(x)
            x = nn.Conv(width, (3, 3))(jnp.concatenate([x, skips.pop()], axis=-1))
        return nn.Conv(3, (3, 3), name="conv_out")(nn.silu(nn.GroupNorm(2)(x)))


def unet():
    """A diffusion U-Net: skips, time embedding, `conv_out` for a head."""
    return label(UNet(), array(2, 8, 8, 3), array(2)), {
        "conv_out/kernel": "head",
        "Dense_*/kernel": "0 -> 1",
        "time_embedding/kernel": "0 -> 1",
        "**/kernel": "0,1,2 -> 3",
        "**": "small",
    }


class VAE(nn.Module):
    @nn.compact
    def __call__(self, x, key):
        y = nn.relu(nn.Dense(16, name="fc1")(x))
        mean = nn.Dense(4, name="fc2_mean")(y)
        log_variance = nn.Dense(4, name="fc2_logvar")(y)
        noise = jax.random.normal(key, mean.shape)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        y = nn.relu(nn.Dense(16, name="fc3")(z))
        return nn.Dense(12, name="fc4")(y), mean, log_variance


def vae():
    """A VAE: the outputs that the decoder reads too are hidden matrices."""
    return label(VAE(), array(3, 12), jax.random.key(0)), {
        "fc4/kernel": "head",
        "*/kernel": "0 -> 1",
        "*/bias": "bias",
    }


class ActorCritic(nn.Module):
    @nn.compact
    def __call__(self, x) -> Any:
        x = nn.relu(nn.Conv(8, (4, 4), strides=2, name="conv")(x))
        x = nn.relu(nn.Dense(16)(x.reshape(len(x), -1)))
        return nn.log_softmax(nn.Dense(5)(x)), nn.Dense(1)(x)


def ppo():
    """PPO's actor and critic, as PureJaxRL writes them: unnamed last layers."""
    return label(ActorCritic(), array(2, 8, 8, 4)), {
        "conv/kernel": "0,1,2 -> 3",
        "Dense_0/kernel": "0 -> 1",
        "Dense_1/kernel": "head",
        "Dense_2/kernel": "small",  # One column.
        "*/bias": "bias",
    }


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = nn.Conv(8, (4, 4), strides=4, name="stem")(images)
        x = x.reshape(len(x), -1, 8)
        for _ in range(2):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            y = nn.Dense(x.shape[1])(nn.gelu(nn.Dense(16)(y)))
            x += y.swapaxes(1, 2)
            x += nn.Dense(8)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


def mixer():
    """MLP-Mixer: matrices over tokens and over channels, and an unnamed last layer."""
    return label(Mixer(), array(2, 8, 8, 3)), {
        "stem/kernel": "0,1,2 -> 3",
        "Dense_8/kernel": "head",
        "Dense_*/kernel": "0 -> 1",
        "**/bias": "small",
        "**/scale": "norm",
    }
