"""Settings of the site: `make docs`, or sphinx-build -W -b html docs runs/docs."""

import collections
import os
import re
import shutil
from pathlib import Path

# Sphinx only imports the package, so JAX need not search for an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import optax_ortho  # noqa: E402

# The notebooks are pages too, with the outputs that they were saved with.
DOCS = Path(__file__).parent
(DOCS / "notebooks").mkdir(exist_ok=True)
for notebook in (DOCS.parent / "notebooks").glob("*.ipynb"):
    shutil.copy(notebook, DOCS / "notebooks")

project = "optax_ortho"
author = "The optax_ortho authors"
copyright = author
version = release = optax_ortho.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_design",
]
exclude_patterns = ["_build"]
# A name in backticks is a link if the site documents it, and code otherwise.
default_role = "py:obj"

# The suite runs the pages' code (tests/test_docs.py).
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "dollarmath"]

autosummary_generate = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
# Attributes are listed like arguments, without types.
napoleon_use_ivar = True
napoleon_attr_annotations = False

html_theme = "furo"
html_title = f"optax_ortho {version}"
html_theme_options = {
    "source_repository": "https://github.com/optax-ortho/optax_ortho/",
    "source_branch": "main",
    "source_directory": "docs/",
}

Pair = collections.namedtuple("Pair", "first")


def skip_fields(app, what, name, member, skip, options):
    """Skips the fields of a NamedTuple, which its docstring and signature list."""
    return True if isinstance(member, type(Pair.first)) else None


def name_defaults(app, what, name, obj, options, signature, returns):
    """Shows a default that is a function by its name: ``axes=last_two``."""
    short = re.sub(r"<function (\w+)[^>]*>", r"\1", signature or "")
    return short or signature, returns


def setup(app):
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-signature", name_defaults)
