"""The models whose reading is timed, two layers of each, have the right labels."""

import jax
import pytest

from benchmarks.labels import MODELS, read
from optax_ortho.matrices import MatrixAxes

LAYER = {
    "attention_norm": "norm",
    "mlp_norm": "norm",
    **dict.fromkeys(("query", "key", "value"), MatrixAxes(0, (1, 2))),
    "output": MatrixAxes((0, 1), 2),
    **dict.fromkeys(("gate", "up", "down"), MatrixAxes(0, 1)),
}
EXPERTS = {
    "router": "vector",
    **dict.fromkeys(("gate", "up", "down"), MatrixAxes(1, 2)),
}


@pytest.mark.parametrize("name", MODELS)
def test_labels(name):
    sizes = MODELS[name]._replace(layers=2)
    layer = LAYER | (EXPERTS if sizes.experts else {})
    expected = {
        f"layers/{i}/{path}": role for i in (0, 1) for path, role in layer.items()
    }
    expected |= {"token": "embedding", "norm": "norm"}
    expected |= {} if sizes.tied else {"head": "head"}
    with jax.numpy_rank_promotion("allow"):
        labels = read(sizes)
    found = {
        path: row.role if row.axes is None else row.axes for path, _, row in labels
    }
    assert found == expected
