"""Small replicas of public models in plain JAX, with the labels that are right.

Each is a function that gives the labels and what they have to be: a role, or the axes
of matrices as the table prints them, by ordered patterns of paths. "small" stands for
bias, norm, vector and scalar.
"""

import jax
import jax.numpy as jnp

from optax_ortho import label


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def tokens(*shape):
    return array(*shape, dtype=jnp.int32)


def rms_norm(x, scale):
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
    return x * jnp.broadcast_to(scale, x.shape)


def rope(x):
    """Rotary positions, on the halves of (time, heads, features)."""
    a, b = jnp.split(x, 2, axis=-1)
    angle = jnp.arange(x.shape[0], dtype=x.dtype)[:, None, None] / jnp.ones_like(a)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attend(q, k, v):
    scores = jnp.einsum("tnh,snh->nts", q, k) / q.shape[-1] ** 0.5
    mask = jnp.tril(jnp.ones(scores.shape[1:], bool))[None]
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
    return jnp.einsum("nts,snh->tnh", weights, v)


def dreamer():
    """DreamerV3's RSSM: a block-diagonal GRU, straight-through codes, decoder."""
    deter, blocks, stoch, classes, action = 24, 4, 3, 5, 2
    wide = deter // blocks
    params = {
        "encoder": array(9, 16),
        "in_deter": array(deter, 8),
        "in_stoch": array(stoch * classes, 8),
        "in_action": array(action, 8),
        "hidden": array(blocks, 24 + wide, wide),
        "gru": array(blocks, wide, 3 * wide),
        "obs": array(deter + 16, 16),
        "obs_logit": array(16, stoch * classes),
        "prior": array(deter, 16),
        "prior_logit": array(16, stoch * classes),
        "decoder": array(deter + stoch * classes, 16),
        "decoder_out": array(16, 9),
        "reward": array(deter + stoch * classes, 11),
    }

    def core(p, h, z, a):
        x = [h @ p["in_deter"], z @ p["in_stoch"], a @ p["in_action"]]
        x = jax.nn.silu(jnp.concatenate(x, axis=-1))
        x = jnp.broadcast_to(x, (blocks, *x.shape))
        x = jnp.concatenate([x, h.reshape(blocks, wide)], axis=-1)
        x = jax.nn.silu(jnp.einsum("gi,gio->go", x, p["hidden"]))
        x = jnp.einsum("gi,gio->go", x, p["gru"])
        reset, candidate, update = (
            each.reshape(-1) for each in jnp.split(x, 3, axis=-1)
        )
        update = jax.nn.sigmoid(update - 1)
        new = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
        return update * new + (1 - update) * h

    def forward(p, key, observations, actions):
        def step(carry, inputs):
            h, z = carry
            observation, action, key = inputs
            h = core(p, h, z, action)
            x = jax.nn.silu(observation @ p["encoder"])
            x = jax.nn.silu(jnp.concatenate([h, x]) @ p["obs"])
            logits = (x @ p["obs_logit"]).reshape(stoch, classes)
            probabilities = jax.nn.softmax(logits)
            code = jax.nn.one_hot(jax.random.categorical(key, logits), classes)
            z = code + probabilities - jax.lax.stop_gradient(probabilities)
            prior = jax.nn.silu(h @ p["prior"]) @ p["prior_logit"]
            features = jnp.concatenate([h, z.reshape(-1)])
            image = jax.nn.silu(features @ p["decoder"]) @ p["decoder_out"]
            out = (image, features @ p["reward"], prior, logits)
            return (h, z.reshape(-1)), out

        keys = jax.random.split(key, len(actions))
        first = jnp.zeros(deter), jnp.zeros(stoch * classes)
        return jax.lax.scan(step, first, (observations, actions, keys))[1]

    inputs = jax.random.key(0), array(6, 9), array(6, action)
    return label(forward, params, *inputs, split="gru"), {
        "gru": "[0] 1 -> 2, 3 blocks",
        "hidden": "[0] 1 -> 2",
        "obs_logit": "vector",  # It chooses a code; a fallback role either way.
        "prior_logit": "head",
        "decoder_out": "head",
        "reward": "head",
        "*": "0 -> 1",
    }


def graph_net():
    """A GraphNet, as in jraph: nodes and edges, segment sums, a global readout."""
    params = {
        "embed_node": array(7, 12),
        "embed_edge": array(3, 12),
        "edge": array(36, 12),
        "node": array(24, 12),
        "global": array(12, 12),
        "readout": array(12, 2),
    }

    def forward(p, nodes, edges, senders, receivers, graph):
        nodes, edges = nodes @ p["embed_node"], edges @ p["embed_edge"]
        for _ in range(2):
            around = [edges, nodes[senders], nodes[receivers]]
            edges = jax.nn.relu(jnp.concatenate(around, -1) @ p["edge"])
            sums = jax.ops.segment_sum(edges, receivers, len(nodes))
            nodes = jax.nn.relu(jnp.concatenate([nodes, sums], -1) @ p["node"])
        pooled = jax.ops.segment_sum(nodes, graph, 2)
        return jax.nn.relu(pooled @ p["global"]) @ p["readout"]

    inputs = array(5, 7), array(8, 3), tokens(8), tokens(8), tokens(5)
    return label(forward, params, *inputs), {"readout": "head", "*": "0 -> 1"}


def nerf():
    """NeRF: an MLP on encoded positions, with a skip and two heads."""
    params = {
        "layers": {"0": array(12, 32), "1": array(32, 32), "2": array(44, 32)},
        "density": array(32, 1),
        "feature": array(32, 16),
        "view": array(22, 16),
        "color": array(16, 3),
    }

    def forward(p, positions, directions):
        scaled = jnp.concatenate([positions, 2 * positions], axis=-1)
        encoded = jnp.concatenate([jnp.sin(scaled), jnp.cos(scaled)], axis=-1)
        x = jax.nn.relu(encoded @ p["layers"]["0"])
        x = jax.nn.relu(x @ p["layers"]["1"])
        x = jnp.concatenate([x, encoded], axis=-1)
        x = jax.nn.relu(x @ p["layers"]["2"])
        encoded = jnp.concatenate([jnp.sin(directions), jnp.cos(directions)], axis=-1)
        y = jnp.concatenate([x @ p["feature"], encoded], axis=-1)
        return x @ p["density"], jax.nn.relu(y @ p["view"]) @ p["color"]

    return label(forward, params, array(9, 3), array(9, 3)), {
        "density": "small",  # A matrix of one column.
        "color": "head",
        "**": "0 -> 1",
    }


def mae(overrides=None):
    """A masked autoencoder that only encodes: what the call does not use is asked."""
    params = {
        "patch": array(48, 8),
        "positions": array(9, 8),
        "cls": array(1, 8),
        "up": array(8, 32),
        "down": array(32, 8),
        "classifier": array(8, 10),
        "mask_token": array(1, 8),
        "decoder": array(8, 48),
    }

    def encode(p, patches):
        x = jnp.concatenate([p["cls"], patches @ p["patch"]]) + p["positions"]
        x += jax.nn.gelu(x @ p["up"]) @ p["down"]
        return x[0] @ p["classifier"]

    overrides = {"decoder": "head"} if overrides is None else overrides
    return label(encode, params, array(8, 48), overrides=overrides), {
        "positions": "embedding",
        "c*r": "head",
        "decoder": "head",
        "cls": "small",
        "mask_token": "embedding",
        "*": "0 -> 1",
    }


def s5():
    """S5: a diagonal state space of complex numbers, run by an associative scan."""
    width, states = 8, 6
    params = {
        "encoder": array(3, width),
        "Lambda_re": array(states),
        "Lambda_im": array(states),
        "B_re": array(states, width),
        "B_im": array(states, width),
        "C_re": array(width, states),
        "C_im": array(width, states),
        "D": array(width),
        "log_step": array(states),
        "glu": array(width, width),
        "decoder": array(width, 10),
    }

    def forward(p, x):
        x = x @ p["encoder"]
        decay = jnp.exp((p["Lambda_re"] + 1j * p["Lambda_im"]) * jnp.exp(p["log_step"]))
        drive = x @ (p["B_re"] + 1j * p["B_im"]).T
        decays = jnp.broadcast_to(decay, drive.shape)

        def combine(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        _, states = jax.lax.associative_scan(combine, (decays, drive))
        y = (states @ (p["C_re"] + 1j * p["C_im"]).T).real
        y = jax.nn.gelu(y + x * jnp.broadcast_to(p["D"], x.shape))
        y = x + y * jax.nn.sigmoid(y @ p["glu"])
        return y.mean(0) @ p["decoder"]

    return label(forward, params, array(12, 3)), {
        "encoder": "0 -> 1",
        "glu": "0 -> 1",
        "decoder": "head",
        "*": "small",
    }
