"""The Python package's documentation: `sphinx-build docs/python target/python-docs`, with the package installed."""

import ddu

project = "ddu"
version = release = ddu.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# What is optional need not be here.
autodoc_mock_imports = ["torch", "pyarrow", "ray"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
html_theme = "alabaster"
html_theme_options = {"description": "Segmentation that knows what it does not know"}
exclude_patterns = ["_build", "notebooks"]
