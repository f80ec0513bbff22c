"""Small replicas of public models in Flax NNX, with the labels that are right.

They are made abstract, and what `plain.py` says of the labels holds here.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from optax_ortho import label
from tests.labels.replicas.plain import array, tokens


def abstract(module, *args):
    return nnx.eval_shape(lambda: module(*args, rngs=nnx.Rngs(0)))


def attend(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("tnh,snh->nts", q, k))
    return jnp.einsum("nts,snh->tnh", weights, v)


def modulated(x, shift, scale):
    return x * (1 + scale)[None] + shift[None]


class DiTBlock(nnx.Module):
    def __init__(self, width, *, rngs):
        self.norm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.ada = nnx.Linear(width, 6 * width, rngs=rngs)

    def __call__(self, x, c):
        a, b, gate, d, e, last = jnp.split(self.ada(nnx.silu(c)), 6, axis=-1)
        x += gate[None] * self.attention(modulated(self.norm(x), a, b))
        hidden = nnx.gelu(self.up(modulated(self.norm(x), d, e)))
        return x + last[None] * self.down(hidden)


class DiT(nnx.Module):
    def __init__(self, width=8, patch=4, *, rngs):
        self.patch = nnx.Conv(3, width, (patch, patch), strides=patch, rngs=rngs)
        self.position = nnx.Param(jnp.zeros((16, width)))
        self.time = nnx.Linear(6, width, rngs=rngs)
        self.label = nnx.Embed(10, width, rngs=rngs)
        self.blocks = nnx.List([DiTBlock(width, rngs=rngs) for _ in range(2)])
        self.final_ada = nnx.Linear(width, 2 * width, rngs=rngs)
        self.final = nnx.Linear(width, patch * patch * 3, rngs=rngs)

    def __call__(self, image, time, label):
        x = self.patch(image).reshape(16, -1) + self.position[...]
        angles = time * jnp.arange(1.0, 4.0)
        c = self.time(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]))
        c = nnx.silu(c) + self.label(label)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = jnp.split(self.final_ada(nnx.silu(c)), 2, axis=-1)
        return self.final(modulated(x, shift, scale))


def dit():
    """DiT: patches, adaLN-zero of six chunks a block, a patch head."""
    inputs = array(16, 16, 3), array(), tokens()
    return label(abstract(DiT), *inputs, split=True), {
        "patch/kernel": "0,1,2 -> 3",
        "position": "embedding",
        "label/embedding": "embedding",
        "blocks/*/ada/kernel": "0 -> 1, 6 blocks",
        "final_ada/kernel": "0 -> 1, 2 blocks",
        "final/kernel": "head",
        "**/attention/out/kernel": "0,1 -> 2",
        "**/attention/*/kernel": "0 -> 1,2",
        "**/kernel": "0 -> 1",
        "**/bias": "small",
    }


class JointBlock(nnx.Module):
    """Text and image have projections of their own, and one attention."""

    def __init__(self, width, heads, *, rngs):
        def linear(n, m):
            return nnx.Linear(n, m, use_bias=False, rngs=rngs)

        self.heads = heads
        self.qkv = nnx.List([linear(width, 3 * width) for _ in range(2)])
        self.out = nnx.List([linear(width, width) for _ in range(2)])
        self.norm = nnx.List([nnx.RMSNorm(width, rngs=rngs) for _ in range(2)])
        self.ada = nnx.List([linear(width, 3 * width) for _ in range(2)])

    def __call__(self, streams, c):
        parts, gates = [], []
        for x, norm, ada, qkv in zip(
            streams, self.norm, self.ada, self.qkv, strict=True
        ):
            shift, scale, gate = jnp.split(ada(nnx.silu(c)), 3, axis=-1)
            fused = qkv(modulated(norm(x), shift, scale))
            q, k, v = jnp.split(fused, 3, axis=-1)
            parts.append([y.reshape(len(x), self.heads, -1) for y in (q, k, v)])
            gates.append(gate)
        joint = [jnp.concatenate(each, axis=0) for each in zip(*parts, strict=True)]
        y = attend(*joint).reshape(sum(map(len, streams)), -1)
        pieces = jnp.split(y, [len(streams[0])], axis=0)
        rest = zip(streams, self.out, pieces, gates, strict=True)
        return [x + gate[None] * out(piece) for x, out, piece, gate in rest]


class MMDiT(nnx.Module):
    def __init__(self, width=8, *, rngs):
        self.text = nnx.Linear(6, width, rngs=rngs)
        self.image = nnx.Linear(12, width, rngs=rngs)
        self.time = nnx.Linear(4, width, rngs=rngs)
        self.blocks = nnx.List([JointBlock(width, 2, rngs=rngs) for _ in range(2)])
        self.out = nnx.Linear(width, 12, rngs=rngs)

    def __call__(self, text, image, time):
        streams, c = [self.text(text), self.image(image)], self.time(time)
        for block in self.blocks:
            streams = block(streams, c)
        return self.out(streams[1])


def mmdit():
    """Stable Diffusion 3's MMDiT: joint attention of two streams, fused qkv."""
    inputs = array(5, 6), array(9, 12), array(4)
    labels = label(abstract(MMDiT), *inputs, split=True)
    return labels, {
        "out/kernel": "head",
        "blocks/*/qkv/*/kernel": "0 -> 1, 3 blocks",
        "blocks/*/ada/*/kernel": "0 -> 1, 3 blocks",
        "**/kernel": "0 -> 1",
        "**/scale": "norm",
        "*/bias": "small",
    }


class Mamba2(nnx.Module):
    """z, x, B, C and dt from one projection, a short convolution, a scan."""

    def __init__(self, width=8, inner=16, heads=4, states=6, *, rngs):
        self.sizes = (inner, inner, states, states, heads)
        self.heads = heads
        self.in_proj = nnx.Linear(width, sum(self.sizes), use_bias=False, rngs=rngs)
        mixed = inner + 2 * states
        self.conv = nnx.Conv(
            *(mixed, mixed, (4,)),
            padding="CAUSAL",
            feature_group_count=mixed,
            rngs=rngs,
        )
        self.A_log = nnx.Param(jnp.zeros(heads))
        self.D = nnx.Param(jnp.ones(heads))
        self.dt_bias = nnx.Param(jnp.zeros(heads))
        self.norm = nnx.RMSNorm(inner, rngs=rngs)
        self.out_proj = nnx.Linear(inner, width, use_bias=False, rngs=rngs)

    def __call__(self, u):
        inner, _, states, _, heads = self.sizes
        z, mixed, dt = jnp.split(
            self.in_proj(u), [inner, 2 * inner + 2 * states], axis=-1
        )
        mixed = nnx.silu(self.conv(mixed))
        x, b, c = jnp.split(mixed, [inner, inner + states], axis=-1)
        x = x.reshape(len(u), heads, -1)
        dt = jax.nn.softplus(dt + self.dt_bias[None])
        decay = jnp.exp(-dt * jnp.exp(self.A_log[None]))

        def step(state, now):
            x, b, c, dt, decay = now
            drive = jnp.einsum("h,hp,n->hpn", dt, x, b)
            state = state * decay[:, None, None] + drive
            return state, jnp.einsum("hpn,n->hp", state, c)

        first = jnp.zeros((*x.shape[1:], states))
        _, y = jax.lax.scan(step, first, (x, b, c, dt, decay))
        y = (y + x * self.D[None, :, None]).reshape(len(u), -1)
        return self.out_proj(self.norm(y * nnx.silu(z)))


class MambaLM(nnx.Module):
    def __init__(self, width=8, *, rngs):
        self.embed = nnx.Embed(50, width, rngs=rngs)
        self.norm = nnx.List([nnx.RMSNorm(width, rngs=rngs) for _ in range(2)])
        self.mixer = nnx.List([Mamba2(width, rngs=rngs) for _ in range(2)])

    def __call__(self, tokens):
        x = self.embed(tokens)
        for norm, mixer in zip(self.norm, self.mixer, strict=True):
            x += mixer(norm(x))
        return self.embed.attend(x)


def mamba2():
    """Mamba-2: five parts in one projection, and an embedding that is the head too."""
    return label(abstract(MambaLM), tokens(7), split="**/in_proj/kernel"), {
        "embed/embedding": "embedding",
        "**/in_proj/kernel": "0 -> 1, 5 blocks",
        "**/out_proj/kernel": "0 -> 1",
        "**/conv/kernel": "grouped_conv",
        "**": "small",
    }


class MBConv(nnx.Module):
    def __init__(self, width, *, rngs):
        def conv(n, m, size, **more):
            return nnx.Conv(n, m, (size, size), use_bias=False, rngs=rngs, **more)

        wide = 4 * width
        self.expand = conv(width, wide, 1)
        self.depthwise = conv(wide, wide, 3, feature_group_count=wide)
        self.norm = nnx.BatchNorm(wide, rngs=rngs)
        self.squeeze = nnx.Conv(wide, 4, (1, 1), rngs=rngs)
        self.excite = nnx.Conv(4, wide, (1, 1), rngs=rngs)
        self.project = conv(wide, width, 1)

    def __call__(self, x, train):
        y = nnx.silu(self.expand(x))
        y = nnx.silu(self.norm(self.depthwise(y), use_running_average=not train))
        pooled = y.mean((1, 2), keepdims=True)
        y *= nnx.sigmoid(self.excite(nnx.silu(self.squeeze(pooled))))
        return x + self.project(y)


class EfficientNet(nnx.Module):
    def __init__(self, width=8, *, rngs):
        self.stem = nnx.Conv(3, width, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.List([MBConv(width, rngs=rngs) for _ in range(2)])
        self.top = nnx.Conv(width, 32, (1, 1), rngs=rngs)
        self.last = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, images, train):
        x = self.stem(images)
        for block in self.blocks:
            x = block(x, train)
        return self.last(nnx.silu(self.top(x)).mean((1, 2)))


def efficientnet():
    """EfficientNet: MBConv with depthwise convolutions and squeeze-excitation."""
    return label(abstract(EfficientNet), array(2, 16, 16, 3), train=True), {
        "last/kernel": "head",
        "**/depthwise/kernel": "grouped_conv",
        "**/kernel": "0,1,2 -> 3",
        "**": "small",
    }


class Whisper(nnx.Module):
    def __init__(self, width=8, *, rngs):
        def attention():
            return nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)

        self.conv1 = nnx.Conv(5, width, (3,), rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3,), strides=2, rngs=rngs)
        self.encoder = attention()
        self.encoder_norm = nnx.LayerNorm(width, rngs=rngs)
        self.tokens = nnx.Embed(50, width, rngs=rngs)
        self.positions = nnx.Embed(20, width, rngs=rngs)
        self.decoder = attention()
        self.cross = attention()
        self.decoder_norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, mel, tokens):
        x = nnx.gelu(self.conv2(nnx.gelu(self.conv1(mel))))
        x = self.encoder_norm(x + self.encoder(x))
        y = self.tokens(tokens) + self.positions(jnp.arange(len(tokens)))
        y += self.decoder(y, mask=nnx.make_causal_mask(y[:, 0])[0])
        y = self.decoder_norm(y + self.cross(y, x))
        return self.tokens.attend(y)


def whisper():
    """Whisper: a convolutional stem, cross-attention, a tied head."""
    return label(abstract(Whisper), array(12, 5), tokens(7)), {
        "*/embedding": "embedding",
        "*/out/kernel": "0,1 -> 2",
        "*/*/kernel": "0 -> 1,2",
        "conv*/kernel": "0,1 -> 2",
        "**": "small",
    }
