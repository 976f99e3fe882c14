"""The documentation against the code: links, names, quoted messages, described fields, stored notebooks."""

import ast
import json
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / 'docs'))
import fields  # noqa: E402 (beside the pages, not in the package)

PAGES = [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md')), *sorted(ROOT.glob('datasets/*/README.md'))]
NOTEBOOKS = sorted(ROOT.glob('colabs/*.ipynb'))


def prose(text: str) -> str:
  """Markdown without its blocks of code."""
  return re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: pathlib.Path) -> set[str]:
  """As GitHub and MyST make them of headings."""
  headings = re.findall(r'^#+ (.*)', prose(page.read_text()), re.MULTILINE)
  return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


def broken_links(page: pathlib.Path, text: str) -> list[str]:
  """The links of a text that lead nowhere; addresses of other machines are not tried."""
  broken = []
  for target in re.findall(r'\]\(([^)\s]+)\)', prose(text)):
    path, _, anchor = target.partition('#')
    file = (page.parent / path).resolve() if path else page
    if '://' not in target and not (file.exists() and (not anchor or anchor in anchors(file))):
      broken.append(target)
  return broken


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
  assert not broken_links(page, page.read_text())


def test_a_link_that_leads_nowhere_is_found():
  page = ROOT / 'docs' / 'index.md'
  text = '[a](usage.md) [b](nowhere.md) [c](usage.md#scores) [d](usage.md#nowhere)'
  assert broken_links(page, text) == ['nowhere.md', 'usage.md#nowhere']


def test_every_page_is_in_the_index():
  index = (ROOT / 'docs/index.md').read_text().splitlines()
  assert {page.stem for page in ROOT.glob('docs/*.md')} - {'index'} <= set(index)


def test_the_page_of_the_config_has_every_field():
  page = fields.as_markdown()
  assert '| `train.batch` | images per step' in page
  assert '| `data.raw_sha256` |' in page
  assert 'pascal: `6`' in page


def test_the_names_in_the_method_table_are_in_their_files():
  rows = re.findall(r'`([\w/]+\.py)` ((?:`\w+`(?:, )?)+)', (ROOT / 'docs/method.md').read_text())
  assert len(rows) > 25
  for file, names in rows:
    tree = ast.parse((ROOT / 'dmtl_jax' / file).read_text())
    known = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert set(re.findall(r'\w+', names)) <= known, file


def messages() -> list[tuple[re.Pattern, int]]:
  """A pattern for the first line of every string in the code, and how many characters of it are fixed."""
  patterns = []
  for path in (path for room in ('dmtl_jax', 'configs', 'datasets') for path in (ROOT / room).rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.JoinedStr):
        text = ''.join(part.value if isinstance(part, ast.Constant) else '\0' for part in node.values)
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
      else:
        continue
      fixed = text.partition('\n')[0].split('\0')
      patterns.append((re.compile('.+'.join(map(re.escape, fixed))), sum(map(len, fixed))))
  return patterns


def is_quoted(text: str, known) -> bool:
  """Whether a string of the code makes up more than a third of a text."""
  return any(3 * length > len(text) and pattern.search(text) for pattern, length in known)


def test_the_quoted_messages_are_the_code_s():
  quotes = re.findall(r'^> (.*)', (ROOT / 'docs/troubleshooting.md').read_text(), re.MULTILINE)
  known = messages()
  assert len(quotes) > 12
  assert [quote for quote in quotes if not is_quoted(quote, known)] == []
  assert not is_quoted('runs/x: this run was begun with some other config; choose another --workdir', known)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_and_show_what_came_out(path):
  text = path.read_text()
  cells = [cell for cell in json.loads(text)['cells'] if cell['cell_type'] == 'code']
  assert len(text) < 1_000_000
  assert f'colabs/{path.name}' in text, 'its badge'
  outputs = [output for cell in cells for output in cell['outputs']]
  assert not [output for output in outputs if output['output_type'] == 'error']
  assert any('image/png' in output.get('data', ()) for output in outputs), 'what it shows is stored with it'
  assert max(len(cell['source']) for cell in cells) < 45, 'the library does the work'
