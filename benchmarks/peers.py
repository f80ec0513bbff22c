"""Muon in PyTorch, for `benchmarks.step`: rows that appear where a peer is installed.

    pip install torch pytorch-optimizer
    python -m benchmarks.step --optimizers muon torch_muon pytorch_optimizer

A peer steps on the same numbers as the others, in the same turns. It compiles nothing,
so only its time, the residual of its update and its state are compared.

Both work in bfloat16. A CPU without bfloat16 products emulates them, as the one behind
results/peers.json does (AVX2, one thread for PyTorch): there 128 x 128 times 128 x 512
took PyTorch 12.6 ms, against 0.22 ms in float32, so that their step times say nothing
of the method.
"""

import importlib
import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np


class Peer(NamedTuple):
    """A package, and what makes its optimizer of a list of parameters."""

    package: str
    make: Callable[[Any, list], Any]

    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


PEERS = {
    "torch_muon": Peer(
        "torch",
        lambda torch, params: torch.optim.Muon(params, lr=0.01, weight_decay=0.0),
    ),
    "pytorch_optimizer": Peer(
        "pytorch_optimizer",
        lambda package, params: package.Muon(
            [{"params": params, "use_muon": True}], lr=0.01
        ),
    ),
}


class Prepared(NamedTuple):
    """A peer's step, and what its first one did.

    Args:
      step: takes one step, in place.
      moved: the change of each matrix in the first.
      state_bytes: of the optimizer.
      versions: of its packages.
    """

    step: Callable[[], Any]
    moved: list[np.ndarray]
    state_bytes: int
    versions: dict[str, str]


def prepare(
    name: str, params: list[np.ndarray], gradients: list[np.ndarray]
) -> Prepared:
    """A peer, after one step on these matrices."""
    peer = PEERS[name]
    torch, package = map(importlib.import_module, ("torch", peer.package))
    tensors = [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in params]
    for tensor, gradient in zip(tensors, gradients, strict=True):
        tensor.grad = torch.from_numpy(gradient.copy())
    optimizer = peer.make(package, tensors)
    optimizer.step()
    after = [tensor.detach().numpy() for tensor in tensors]
    state = [
        value
        for of_one in optimizer.state.values()
        for value in of_one.values()
        if isinstance(value, torch.Tensor)
    ]
    return Prepared(
        optimizer.step,
        [new - old for new, old in zip(after, params, strict=True)],
        sum(value.nbytes for value in state),
        {package: version(package) for package in {"torch", peer.package}},
    )
