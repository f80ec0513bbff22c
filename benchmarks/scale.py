"""The cost of one step on a TPU slice, compiled ahead of time without a TPU.

    python -m benchmarks.scale                      GPT-2 and Muon
    python -m benchmarks.scale --full               every tree and chip: hours
    python -m benchmarks.scale --trees llama:4 --meshes v6e:2x4/fsdp \\
        --optimizers contrib_muon normuon/local
    python -m benchmarks.scale --meshes v5e:16x16/groups \\
        --optimizers muon/sharded muon/shared       256 chips, more than matrices
    python -m benchmarks.scale --full --show        the table of saved rows

Every row is one program. It is saved in benchmarks/results/scale.json as soon as it is
compiled.
"""

from pathlib import Path

from benchmarks.aot.command import Choice, run
from benchmarks.aot.trees import TREES

RESULTS = Path(__file__).parent / "results/scale.json"
QUICK = Choice(
    ["gpt2"],
    ["v5e/single", "v5e:2x4/replicated", "v5e:2x4/fsdp", "v5e:2x4/fsdp_tp"],
    ["contrib_muon", "muon/local", "muon/sharded"],
)
FULL = Choice(
    list(TREES),
    [*QUICK.meshes, "v5e:16x16/fsdp", "v6e:2x4/fsdp", "v5p:2x2x2/fsdp"],
    QUICK.optimizers,
)
# More devices than matrices: each matrix on one device, or shared by four.
SHARED = Choice(["gpt2"], ["v5e:16x16/groups"], ["muon/sharded", "muon/shared"])

if __name__ == "__main__":
    run("benchmarks.scale", "libtpu", "aot", RESULTS, QUICK, FULL, SHARED)
