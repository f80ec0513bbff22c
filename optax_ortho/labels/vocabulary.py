"""The words that names of parameters and layers are made of, by what they say."""

UNDECIDED = "undecided"

NORM = {
    *("norm", "normalization", "layernorm", "rmsnorm", "batchnorm", "groupnorm"),
    *("ln", "bn", "gn"),
}
BIAS = {"bias", "biases"}
SCALE = {"scale", "scales", "gamma"}
HEAD = {
    *("head", "heads", "lmhead", "classifier", "logit", "logits"),
    *("unembed", "unembedding"),
}
NOT_HEAD_AFTER = {  # Heads of attention; and pre_logits is a hidden layer.
    *("multi", "attention", "attn", "pre", "self", "cross"),
    *("q", "k", "v", "kv", "query", "key", "value"),
}
HEAD_NAMES = {  # The whole name of a layer, written as one word.
    *("logitdense", "logitproj", "logitsproj", "embedout", "convout", "finalconv"),
    *("finalproj", "finalprojection", "finaldense", "finallinear", "finallayer"),
}
EMBEDDING = {
    *("embed", "embedding", "embeddings", "embedder", "emb", "wte", "wpe"),
    *("posemb", "posembed", "posenc", "relpos", "table"),
    *("codebook", "codebooks", "codevectors"),
}
EMBEDDING_LAST = {"pos", "position", "positions", "token", "tokens"}
ENCODING = {"enc", "encoding", "encodings"}
POSITION = {"pos", "position", "positions", "positional", "rel", "relative"}
TIME = {"t", "time", "timestep", "timesteps"}  # Embedded by an MLP, not by a table.

# Names of parameters, beside those above.
WEIGHT = {"w", "kernel", "weight", "weights"}
BIAS_LEAF = {"offset", "offsets", "beta", "shift"}
VECTOR_LEAF = {"gain", "gains", "lambda", "alpha", "decay", "log"}  # A_log, nu_log.
COMPLEX = {"re", "im", "real", "imag"}  # Half of a complex matrix, as B_re.
LEARNED = {"latents", "queries", "prototypes", "centroids", "slots"}

PLAIN = {"dense", "linear", "layer"}  # As in logits_dense: what it is, not what for.
PLACE = {"before", "after"}  # As in layernorm_before.
JOINS = {"with", "without", "no"}  # attention_with_pair_bias is an attention.
MATRICES = {  # Layers that hold matrices, whatever goes in: embed_proj.
    *("proj", "projection", "projections", "project", "dense", "linear", "fc", "conv"),
    *("convolution", "mapping", "mlp", "ffn", "block", "attention", "attn", "net"),
    *("encoder", "decoder", "transformer"),
}
# A layer of such a name inside another is what the other is.
IN_TABLE = {"conv", "convolution", "proj", "projection", *WEIGHT}
IN_HEAD = IN_TABLE | {
    *("dense", "linear", "layer", "layers", "fc", "out", "output", "decoder"),
    *("base", "module"),
}

ROUTER = {"router", "routers"}
EXPERTS = {"expert", "experts"}
GATED = {"up", "down", *ROUTER}  # Beside a gate that is no router.
