"""Renders the templates of a report, HTML and SVG, with every value escaped."""

import pathlib

import jinja2

TEMPLATES = jinja2.Environment(
  loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / 'templates'),
  autoescape=True,
  undefined=jinja2.StrictUndefined,
  trim_blocks=True,
  lstrip_blocks=True,
)


def render(template: str, **values) -> str:
  """The text of a template, a file name in templates/, with these values."""
  return TEMPLATES.get_template(template).render(**values)
