"""The cost of one step on eight H100, compiled ahead of time without a GPU.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --full

Like `benchmarks.scale`, with XLA's compiler for GPUs. It estimates no cycles and does
not report the size of the program. Autotuning, which needs the device, is off.
"""

from pathlib import Path

from benchmarks.aot.command import Choice, run
from benchmarks.aot.contenders import LAYOUTS

RESULTS = Path(__file__).parent / "results/gpu.json"
QUICK = Choice(
    ["gpt2"],
    ["h100:8/replicated", "h100:8/fsdp", "h100:8/fsdp_tp"],
    ["contrib_muon", *(f"muon/{layout}" for layout in LAYOUTS)],
)
FULL = QUICK._replace(trees=["gpt2", "llama", "scanned"])

if __name__ == "__main__":
    run("benchmarks.gpu", "jax-cuda12-plugin", "aot-gpu", RESULTS, QUICK, FULL)
