"""Programs compiled ahead of time for absent devices, and their cost.

Importing this package sets environment variables that silence the compilers, unless
they are set already. JAX reads some of them when it is first imported.
"""

import os

QUIET = {
    # Otherwise JAX looks for the devices and complains that there are none.
    "JAX_PLATFORMS": "cpu",
    # The TPU library queries the machine's metadata, warns if there is none, and allows
    # only one process.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

for variable, value in QUIET.items():
    os.environ.setdefault(variable, value)
