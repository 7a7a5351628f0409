"""Sphinx's configuration of the site that tools/docs_site.py assembles and builds."""

from importlib.metadata import version as version_of
from typing import Any

from pydantic import BaseModel

project = "bufferlab"
author = "the bufferlab authors"
project_copyright = "the bufferlab authors, Apache License 2.0"
release = version = version_of("bufferlab")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["README.md"]

# Headings have the anchors that GitHub gives them, so a link is good in both places or in neither.
myst_heading_anchors = 6
suppress_warnings = ["myst.header"]  # pages of one kind of file begin where they are included

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"exclude-members": "model_config, model_post_init"}  # what pydantic needs of a configuration
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "furo"
html_title = f"bufferlab {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it would fetch pages, which a browser refuses to pages opened as files


def without_settings(*told: Any) -> Any:
    """A configuration is made by ``load``; all its settings in one signature would be a page, and have one."""
    _, what, _, made, _, _, returned = told
    return ("", returned) if what == "class" and issubclass(made, BaseModel) else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", without_settings)
