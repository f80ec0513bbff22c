"""Few steps for the notebooks, except in `make notebooks`, which saves their output."""

import os

import pytest

collect_ignore_glob = ["*.py"]  # The same notebooks as text.


def pytest_collection_modifyitems(config, items):
    if config.getoption("overwrite", False):
        return
    os.environ["NOTEBOOK_STEPS"] = "4"
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.slow)
