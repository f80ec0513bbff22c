"""Muon in PyTorch, for the rows of `benchmarks.step` whose package is installed.

    pip install torch pytorch-optimizer
    python -m benchmarks.step --optimizers muon torch_muon pytorch_optimizer

A peer takes the same steps as the others, in the same turns. It compiles nothing, so
only its time, the residual of its update and its state are compared.

Both peers work in bfloat16, which a CPU without bfloat16 products emulates. So did the
CPU of results/peers.json (AVX2, one thread for PyTorch): a product of 128 x 128 and
128 x 512 took PyTorch 12.6 ms, compared with 0.22 ms in float32. These step times
therefore say nothing about the method.
"""

import importlib
import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np


class Peer(NamedTuple):
    """A package, and a function that creates its optimizer from its parameters."""

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
    """A peer's step, and the results of its first one.

    Args:
      step: takes one step, in place.
      moved: the change of each matrix in the first step.
      state_bytes: bytes of the optimizer's state.
      versions: versions of its packages.
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
