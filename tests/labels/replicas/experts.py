"""Small replicas of mixtures of experts in plain JAX, with the labels that are right.

What `plain.py` says of the labels holds here.
"""

import jax
import jax.numpy as jnp

from optax_ortho import label
from tests.labels.replicas.plain import array, attend, rms_norm, rope, tokens


def mixtral():
    """Mixtral: grouped-query attention, rotary, top-2 of four experts, scanned."""
    layers, width, heads, groups, head, hidden, experts = 3, 16, 4, 2, 4, 24, 6
    params = {
        "embed": array(50, width),
        "layers": {
            "attn_norm": array(layers, width),
            "q": array(layers, width, heads * head),
            "k": array(layers, width, groups * head),
            "v": array(layers, width, groups * head),
            "o": array(layers, heads * head, width),
            "moe_norm": array(layers, width),
            "gate": array(layers, width, experts),
            "w1": array(layers, experts, width, hidden),
            "w3": array(layers, experts, width, hidden),
            "w2": array(layers, experts, hidden, width),
        },
        "norm": array(width),
        "output": array(width, 50),
    }

    def layer(x, p):
        y = rms_norm(x, p["attn_norm"])
        q = rope((y @ p["q"]).reshape(-1, heads, head))
        k = rope((y @ p["k"]).reshape(-1, groups, head))
        v = (y @ p["v"]).reshape(-1, groups, head)
        k, v = (jnp.repeat(each, heads // groups, axis=1) for each in (k, v))
        x += attend(q, k, v).reshape(-1, heads * head) @ p["o"]
        y = rms_norm(x, p["moe_norm"])
        weights, chosen = jax.lax.top_k(y @ p["gate"], 2)
        mix = jax.nn.one_hot(chosen, experts) * jax.nn.softmax(weights)[..., None]
        up = jnp.einsum("td,edf->tef", y, p["w1"])
        up = jax.nn.silu(up) * jnp.einsum("td,edf->tef", y, p["w3"])
        out = jnp.einsum("tef,efd->ted", up, p["w2"])
        return x + jnp.einsum("ted,te->td", out, mix.sum(1)), None

    def forward(params, tokens):
        x, _ = jax.lax.scan(layer, params["embed"][tokens], params["layers"])
        return rms_norm(x, params["norm"]) @ params["output"]

    return label(forward, params, tokens(7)), {
        "embed": "embedding",
        "output": "head",
        "**/*norm": "norm",
        "layers/gate": "vector",
        "layers/w*": "[0,1] 2 -> 3",
        "layers/*": "[0] 1 -> 2",
    }


def deepseek():
    """DeepSeek V3: latent attention, a shared expert, sorted tokens, ragged dots."""
    width, heads, nope, rotary, value, latent = 16, 4, 4, 4, 6, 10
    hidden, experts = 12, 6
    params = {
        "embed": array(50, width),
        "q_a": array(width, 8),
        "q_norm": array(8),
        "q_b": array(8, heads * (nope + rotary)),
        "kv_a": array(width, latent + rotary),
        "kv_norm": array(latent),
        "kv_b": array(latent, heads * (nope + value)),
        "o": array(heads * value, width),
        "router": array(width, experts),
        "router_bias": array(experts),
        "gate_up": array(experts, width, 2 * hidden),
        "down": array(experts, hidden, width),
        "shared_up": array(width, hidden),
        "shared_down": array(hidden, width),
        "head": array(width, 50),
    }

    def experts_of(p, x):
        scores = jax.nn.sigmoid(x @ p["router"])
        _, chosen = jax.lax.top_k(scores + p["router_bias"][None], 2)
        weights = jnp.take_along_axis(scores, chosen, axis=1)
        order = jnp.argsort(chosen.reshape(-1))
        sizes = jnp.bincount(chosen.reshape(-1), length=experts)
        y = jax.lax.ragged_dot(x[order // 2], p["gate_up"], sizes)
        gate, up = jnp.split(y, 2, axis=-1)
        y = jax.lax.ragged_dot(jax.nn.silu(gate) * up, p["down"], sizes)
        y = jnp.zeros_like(y).at[order].set(y).reshape(-1, 2, width)
        return jnp.einsum("tkd,tk->td", y, weights)

    def forward(p, tokens):
        x = p["embed"][tokens]
        q = rms_norm(x @ p["q_a"], p["q_norm"]) @ p["q_b"]
        q, q_rotary = jnp.split(q.reshape(-1, heads, nope + rotary), [nope], axis=-1)
        latents, k_rotary = jnp.split(x @ p["kv_a"], [latent], axis=-1)
        kv = rms_norm(latents, p["kv_norm"]) @ p["kv_b"]
        k, v = jnp.split(kv.reshape(-1, heads, nope + value), [nope], axis=-1)
        k_rotary = jnp.broadcast_to(rope(k_rotary[:, None]), (*k.shape[:2], rotary))
        q = jnp.concatenate([q, rope(q_rotary)], axis=-1)
        k = jnp.concatenate([k, k_rotary], axis=-1)
        x += attend(q, k, v).reshape(-1, heads * value) @ p["o"]
        shared = jax.nn.silu(x @ p["shared_up"]) @ p["shared_down"]
        return (x + shared + experts_of(p, x)) @ p["head"]

    return label(forward, params, tokens(7), split=("kv_a", "gate_up")), {
        "embed": "embedding",
        "head": "head",
        "*_norm": "norm",
        "router": "vector",
        "router_bias": "small",
        "kv_a": "0 -> 1, 2 blocks",
        "gate_up": "[0] 1 -> 2, 2 blocks",
        "down": "[0] 1 -> 2",
        "*": "0 -> 1",
    }
