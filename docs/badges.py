"""Writes conf.REPOSITORY into README.md and the notebooks, with badges that open a notebook in Colab.

python docs/badges.py
"""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted(ROOT.glob('colabs/*.ipynb'))]
BADGE = re.compile(r'\n\n\[!\[Open in Colab\]\(\S+\)\]\(\S+\)')
SETTING = re.compile(r"^REPOSITORY = '[^']*'", re.MULTILINE)


def badge(repository: str, notebook: str) -> str:
  """A paragraph of Markdown with the badge of a notebook; '' without a repository."""
  colab = 'https://colab.research.google.com'
  address = f'{colab}/github/{repository}/blob/main/colabs/{notebook}.ipynb'
  return f'\n\n[![Open in Colab]({colab}/assets/colab-badge.svg)]({address})' if repository else ''


def set_repository(name: str, text: str, repository: str) -> str:
  """The text of a page for this repository.

  Args:
    name: of its file, README.md or a notebook.
    repository: OWNER/NAME on GitHub, or '': no badges.
  """
  if name == 'README.md':  # under the title
    title, rest = BADGE.sub('', text).split('\n', 1)
    return f'{title}{badge(repository, "quickstart")}\n{rest}'
  notebook = json.loads(text)
  for number, cell in enumerate(notebook['cells']):
    source = SETTING.sub(f"REPOSITORY = '{repository}'", ''.join(cell['source']))
    if number == 0:
      source = BADGE.sub('', source) + badge(repository, name.removesuffix('.ipynb'))
    cell['source'] = source.splitlines(keepends=True)
  return json.dumps(notebook, indent=1, ensure_ascii=False) + '\n'


if __name__ == '__main__':
  import conf

  for page in PAGES:
    page.write_text(set_repository(page.name, page.read_text(), conf.REPOSITORY))
