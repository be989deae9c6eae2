"""How Sphinx builds the site: Markdown by MyST, docstrings by autodoc, the furo theme."""

from allranks import __version__

project = "allranks"
author = "the allranks developers"
copyright = author  # noqa: A001 - Sphinx asks for this name
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build"]
nitpicky = False  # Types of torch and numpy are named, and their inventories need a network.

myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]  # As GitHub draws them.
myst_heading_anchors = 4

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "allranks"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {
    "sidebar_hide_name": False,
    "navigation_with_keys": True,
}
