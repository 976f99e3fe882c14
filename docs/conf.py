"""Sphinx with MyST: a tool with regular releases and a strict mode, that takes the Markdown GitHub shows as it is."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'docs')]

project = 'DiffusionMTL in JAX'
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
html_theme = 'furo'
smartquotes = False  # -- begins a flag
html_title = project
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 3
exclude_patterns = ['_build']


def setup(app):
  app.connect('source-read', add_fields)


def add_fields(app, name: str, source: list[str]):
  """Puts the table of fields under configuration.md."""
  if name == 'configuration':
    import fields

    source[0] += fields.as_markdown()
