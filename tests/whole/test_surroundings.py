"""What surrounds a command: streams that are full or closed, locale, HOME, umask, names as long as a disk allows."""

import ast
import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from dmtl_jax.basics import atomic
from tests import faults, toy

STREAMS = ('>/dev/full 2>/dev/full', '>&- 2>&-', '<&- >&-', '| true')  # the shell's
PYTHON = f"'{sys.executable}'"
ENVIRONMENT = os.environ | {'PYTHONPATH': str(faults.ROOT)}
ASCII = {'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': '0'}  # a locale that has no more
SPEAK = """
import os, sys
from dmtl_jax.basics import streams
streams.secure()
for stream in (sys.stdout, sys.stderr):
  print('line\\\\n' * 100_000, file=stream, flush=True)
  print('left for the end', file=stream)
with open(os.devnull) as file:
  assert file.fileno() > 2, 'a file has taken the place of a stream that was closed'
"""


def shell(command: str, streams: str = '', **environment: str) -> int:
  """The exit status of the first command of a pipe in bash."""
  line = f'{command} {streams}; exit ${{PIPESTATUS[0]}}'
  return subprocess.run(['bash', '-c', line], env=ENVIRONMENT | environment, cwd=faults.ROOT, timeout=100).returncode


@pytest.mark.parametrize('streams', STREAMS)
def test_a_stream_that_cannot_be_written_fails_nothing(streams):
  """Also at the end, where Python writes what is left."""
  assert shell(f'{PYTHON} -c "{SPEAK}"', streams) == 0


@pytest.mark.parametrize('streams', STREAMS)
def test_help_and_errors_end_as_usual(streams):
  assert shell(f'{PYTHON} main.py --help', streams) == 0
  assert shell(f'{PYTHON} main.py --mode=bogus', streams) == 1


def test_characters_that_a_locale_lacks_are_escaped():
  code = "from dmtl_jax.basics import streams; streams.secure(); print('\\u5b57', end='')"
  shown = subprocess.run([sys.executable, '-c', code], env=ENVIRONMENT | ASCII, capture_output=True, check=True)
  assert shown.stdout == b'\\u5b57'


def test_training_in_a_strange_place(tmp_path, monkeypatch):
  """Class names beyond ASCII in a C locale, no home, a disk of logs that is full, a reader that is gone, umask 077."""
  classes = ['B\u00e4ume', '\u9053\u8def', 'box']
  description = {'tasks': toy.DESCRIPTION['tasks'] | {'semseg': {'classes': classes}}}
  monkeypatch.setattr(toy, 'DESCRIPTION', description)
  toy.write(tmp_path / 'data', size=(16, 24))
  (tmp_path / 'data/dataset.json').write_text(json.dumps(description, ensure_ascii=False), encoding='utf-8')
  strange = ASCII | {'HOME': os.devnull, 'XDG_CACHE_HOME': ''}
  run = tmp_path / 'run'
  code = f"import sys; from tests import faults; sys.exit(faults.main('{tmp_path}/data', '{run}'))"
  assert shell(f'umask 077; {PYTHON} -c "{code}"', '2>&1 >/dev/full | true', **strange) == 0
  assert json.loads((run / 'tasks.json').read_text(encoding='utf-8'))[0]['classes'] == classes
  assert classes[1] in (run / 'report.html').read_text(encoding='utf-8')
  assert {stat.S_IMODE(path.stat().st_mode) for path in run.rglob('*') if path.is_file()} == {0o600}


@pytest.mark.parametrize('umask, mode', [(0o077, 0o600), (0o002, 0o664)])
def test_new_files_follow_the_umask_and_old_ones_keep_their_mode(tmp_path, umask, mode):
  before = os.umask(umask)
  try:
    atomic.write_atomic(tmp_path / 'new', '')
    (tmp_path / 'old').touch(0o640)
    (tmp_path / 'old').chmod(0o640)
    atomic.write_atomic(tmp_path / 'old', '')
  finally:
    os.umask(before)
  assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ('new', 'old')] == [mode, 0o640]


def test_a_name_as_long_as_may_be(tmp_path):
  """What a killed write would leave is found by the pattern that `workdir` removes it by."""
  path = tmp_path / ('x' * 251 + '.png')
  with atomic.atomic_open(path) as file:
    file.write('text')
    assert [p.name for p in tmp_path.glob('.*.tmp')] == [pathlib.Path(file.name).name]
  assert [(p, p.read_text()) for p in tmp_path.iterdir()] == [(path, 'text')]


def test_text_files_are_utf_8_everywhere():
  """In a locale that is not, Python takes another encoding where none is given."""
  files = [p for place in ('dmtl_jax', 'configs', 'datasets') for p in (faults.ROOT / place).rglob('*.py')]
  assert len(files) > 100
  wrong = [
    f'{path.relative_to(faults.ROOT)}:{node.lineno}'
    for path in files
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
    if isinstance(node, ast.Call) and opens_text(node) and 'encoding' not in [keyword.arg for keyword in node.keywords]
  ]
  assert not wrong


def opens_text(call: ast.Call) -> bool:
  """Whether a call reads or writes a text file; `files.read_text` is ours, and UTF-8."""
  if isinstance(call.func, ast.Attribute):
    ours = isinstance(call.func.value, ast.Name) and call.func.value.id in ('files', 'files_lib')
    return call.func.attr in ('read_text', 'write_text') and not ours
  modes = [node.value for arg in call.args[1:2] for node in ast.walk(arg) if isinstance(node, ast.Constant)]
  return getattr(call.func, 'id', '') == 'open' and not any('b' in mode for mode in modes)
