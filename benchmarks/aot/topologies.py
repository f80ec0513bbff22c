"""Absent devices: TPUs for libtpu's compiler, H100s for XLA's GPU compiler.

v5e:2x4   v5e:16x16   v5p:2x2x2   v6e:2x4     chips of one slice
h100:8                                        GPUs of one host
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh


class Chip(NamedTuple):
    """A kind of device, and the public numbers that convert bytes into cycles.

    Args:
      platform: its platform in JAX.
      hbm: bandwidth of its memory, in bytes per second.
      clock: cycles per second, from peak FLOP/s and the width of its matrix units.
      single: the smallest topology.
    """

    platform: str
    hbm: float
    clock: float
    single: str


CHIPS = {
    "v5e": Chip("tpu", 819e9, 1.5e9, "1x1"),
    "v5p": Chip("tpu", 2765e9, 1.75e9, "1x1x1"),
    "v6e": Chip("tpu", 1640e9, 1.75e9, "1x1"),
    "h100": Chip("cuda", 3352e9, 1.98e9, "1"),
}


def chip(name: str) -> Chip:
    """The chip of a topology, from a name that begins with it.

    Raises:
      ValueError: an unknown chip.
    """
    kind = re.split("[:/]", name)[0]
    if kind not in CHIPS:
        raise ValueError(f"{name!r} starts with none of {', '.join(CHIPS)}.")
    return CHIPS[kind]


def mesh(name: str, sharding: str) -> Mesh:
    """The devices of a topology as a mesh.

    Args:
      name: such as "v5e:2x4"; "v5e" alone is one chip.
      sharding: "fsdp_tp" is ``(fsdp, tp)`` with two devices along the second axis;
        "groups" is ``(fsdp, tp, group)`` with four along the second and the third;
        all others are one axis ``d``, with only the first device for "single".

    Returns:
      A mesh with Auto axes.

    Raises:
      ValueError: an unknown chip.
      RuntimeError: the compiler for it is not installed.
    """
    devices = np.array(_devices(name))
    if sharding == "single":
        devices = devices[:1]
    if sharding == "fsdp_tp":
        return Mesh(devices.reshape(-1, 2), ("fsdp", "tp"))
    if sharding == "groups":
        return Mesh(devices.reshape(-1, 4, 4), ("fsdp", "tp", "group"))
    return Mesh(devices, ("d",))


def _devices(name: str) -> list[Any]:
    kind, _, shape = name.partition(":")
    shape = shape or chip(name).single
    if chip(name).platform == "cuda":
        target = (Path(__file__).parent / "h100.txtpb").read_text()
        return topologies.get_topology_desc(
            platform="cuda", target_config=target, topology=f"1x1x{shape}"
        ).devices
    return topologies.get_topology_desc(f"{kind}:{shape}", platform="tpu").devices
