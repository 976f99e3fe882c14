"""Sphinx with MyST: a tool with regular releases and a strict mode, that takes the Markdown GitHub shows as it is."""

import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'docs')]
REPOSITORY = ''  # OWNER/NAME on GitHub; python docs/badges.py writes it into README.md and the notebooks

project = 'DiffusionMTL in JAX'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
html_theme = 'furo'
html_css_files = ['pages.css']
html_static_path = ['_static']
highlight_language = 'none'  # of blocks that name no language: folders, output
smartquotes = False  # -- begins a flag
html_title = project
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 3
nb_execution_mode = 'off'  # notebooks show their stored outputs
exclude_patterns = ['_build']


def setup(app):
  shutil.copytree(ROOT / 'colabs', ROOT / 'docs/colabs', dirs_exist_ok=True)  # pages have to lie beneath docs
  app.connect('source-read', add_fields)
  app.connect('source-read', show_notebooks)


def add_fields(app, name: str, source: list[str]):
  """Puts the table of fields under configuration.md."""
  if name == 'configuration':
    import fields

    source[0] += fields.as_markdown()


def show_notebooks(app, name: str, source: list[str]):
  """Makes links to notebooks, which GitHub shows too, lead to their pages here."""
  source[0] = source[0].replace('](../colabs/', '](colabs/')
