"""Sphinx: `sphinx-build -nW docs build/docs` makes the pages, with every warning an error."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "kemu"
author = "kemu contributors"
project_copyright = author
release = version = version_of("kemu")
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"kemu {release}"
html_copy_source = False
nitpicky = True
# A pool tag is a character constant of four characters, which the lexer for C does not know.
suppress_warnings = ["misc.highlighting_failure"]
