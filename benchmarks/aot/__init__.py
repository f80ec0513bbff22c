"""Programs compiled ahead of time for absent devices, and what they cost.

Importing this package sets the environment in which the compilers keep quiet, unless it
says otherwise; JAX reads part of it when it is first imported.
"""

import os

QUIET = {
    # Else JAX looks for the devices themselves, and complains that there are none.
    "JAX_PLATFORMS": "cpu",
    # The TPU library asks for the machine's metadata, warns where there is none, and
    # refuses a second process.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

for variable, value in QUIET.items():
    os.environ.setdefault(variable, value)
