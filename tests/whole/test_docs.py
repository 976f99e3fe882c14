"""The documentation against the code: links, names, quoted messages, described fields, stored notebooks."""

import ast
import json
import pathlib
import re
import shlex
import subprocess
import sys

from absl import flags
import pytest
import yaml

from dmtl_jax import cli
from tests.tiny import ROOT

sys.path.append(str(ROOT / 'docs'))
import badges
import conf
import fields

DOCS = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(ROOT.glob('docs/*.md'))]
PAGES = [*DOCS, *sorted(ROOT.glob('datasets/*/README.md'))]
NOTEBOOKS = sorted(ROOT.glob('colabs/*.ipynb'))


def prose(text: str) -> str:
  """Markdown without its blocks of code."""
  return re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.MULTILINE)


def blocks(text: str) -> list[str]:
  """The blocks of code of a Markdown text."""
  return re.findall(r'^```.*?\n(.*?)^```', text, flags=re.DOTALL | re.MULTILINE)


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
  outputs = [output for cell in cells for output in cell['outputs']]
  assert not [output for output in outputs if output['output_type'] == 'error']
  assert any('image/png' in output.get('data', ()) for output in outputs), 'what it shows is stored with it'
  assert max(len(cell['source']) for cell in cells) < 45, 'the library does the work'


@pytest.mark.parametrize('page', DOCS, ids=lambda page: page.name)
def test_code_fits_the_width_of_a_page(page):
  """At 1280 pixels and at 1440 with the contents beside it."""
  lines = [line for block in blocks(page.read_text()) for line in block.splitlines()]
  assert [line for line in lines if len(line) > 106] == []


@pytest.fixture
def parsed(monkeypatch, fresh_flags):
  """A function that reads a command of main.py as the command line does; raises for what is wrong with it."""
  monkeypatch.chdir(ROOT)

  def parse(words: list[str]):
    monkeypatch.setattr(sys, 'argv', words)
    fresh_flags()
    cli._parse(words)
    return flags.FLAGS['config'].value

  return parse


REPRODUCE = blocks((ROOT / 'docs/reproduce.md').read_text())
SCRIPT = next(block for block in REPRODUCE if block.startswith('#!/bin/bash'))


def test_the_commands_that_reproduce_the_paper_are_accepted(parsed):
  lines = [line for block in REPRODUCE if block != SCRIPT for line in block.replace('\\\n', '').splitlines()]
  commands = [shlex.split(line)[1:] for line in lines if line.startswith('python main.py')]
  assert len(commands) == 8
  for words in commands:
    parsed(words)


def test_the_slurm_script_trains_four_methods_with_three_seeds(tmp_path, parsed):
  script = tmp_path / 'job.sh'
  script.write_text('srun() { printf "%s\\n" "$@"; }\n' + SCRIPT)
  first, last = map(int, re.search(r'--array=(\d+)-(\d+)', SCRIPT).groups())
  runs = set()
  for task in range(first, last + 1):
    done = subprocess.run(
      ['bash', '-u', script], env={'SLURM_ARRAY_TASK_ID': str(task)}, capture_output=True, text=True, check=True
    )
    config = parsed(done.stdout.splitlines()[1:])
    runs.add((config.method, config.seed))
  assert runs == {
    (method, seed) for method in ('single_task', 'mtl_baseline', 'prediction', 'feature') for seed in range(3)
  }


def test_the_steps_are_those_of_the_configs(parsed):
  shown = re.search(r'^\| steps \|(.*)\|$', (ROOT / 'docs/reproduce.md').read_text(), re.MULTILINE)[1]
  steps = []
  for name, images in (('pascal', 4998), ('nyud', 795), ('cityscapes', 2975)):
    train = parsed(['main.py', '--mode=summary', f'--config=configs/{name}.py']).train
    steps.append(images // train.batch * train.epochs)
  assert [int(number.replace(' ', '')) for number in shown.split('|')] == steps


def test_the_batches_for_several_gpus_can_be_split():
  rows = re.findall(r'^\| ([\d, or]+) \| (.*) \|$', (ROOT / 'docs/reproduce.md').read_text(), re.MULTILINE)
  for gpus, setting in rows:
    batch = int((re.search(r'train\.batch=(\d+)', setting) or re.search(r"paper's, (\d+)", setting))[1])
    assert [count for count in map(int, re.findall(r'\d+', gpus)) if batch % count] == []
  assert len(rows) == 3


def test_badges_are_those_of_the_repository():
  for page in badges.PAGES:
    text = page.read_text()
    assert badges.set_repository(page.name, text, conf.REPOSITORY) == text


@pytest.mark.parametrize('page', badges.PAGES, ids=lambda page: page.name)
def test_a_repository_that_is_set_gives_badges_and_removed_takes_them_away(page):
  bare = badges.set_repository(page.name, page.read_text(), '')
  with_badge = badges.set_repository(page.name, bare, 'ann/dmtl')
  notebook = page.name if page.suffix == '.ipynb' else 'quickstart.ipynb'
  assert with_badge.count(f'/github/ann/dmtl/blob/main/colabs/{notebook}') == 1
  assert page.suffix == '.md' or "REPOSITORY = 'ann/dmtl'" in with_badge
  assert 'Open in Colab' not in bare
  assert badges.set_repository(page.name, with_badge, '') == bare


def test_the_citation_is_the_readme_s():
  cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())['preferred-citation']
  bibtex = next(block for block in blocks((ROOT / 'README.md').read_text()) if block.startswith('@'))
  assert f'{{{cited["title"]}}}' in bibtex
  assert ' and '.join(f'{a["family-names"]}, {a["given-names"]}' for a in cited['authors']) in bibtex
  assert f'{{{cited["year"]}}}' in bibtex
