"""All measurements of an accelerator by one command: each is kept, whatever becomes of the others."""

import json
import pathlib
import sys
import time

from dmtl_jax.benchmarks import accelerator

WRITES = 'import sys; open(sys.argv[-1].partition("=")[2], "w").write(\'{"seconds": 2}\')'


def python(code: str) -> list[str]:
  return [sys.executable, '-c', code]


def test_what_fails_or_takes_too_long_is_named_and_the_rest_is_kept(tmp_path):
  commands = {
    'good': python(WRITES),
    'broken': python('import sys; sys.exit("Error: no such device")'),
    'endless': python(f'{WRITES}; import time; time.sleep(60)'),
    'late': python(WRITES),
  }
  path = tmp_path / 'all.json'
  result = accelerator.measure(commands, path, 3 / 60)
  assert result == json.loads(path.read_text())
  assert result['good'] == {'seconds': 2} and result['broken'] == {'failed': 'Error: no such device'}
  assert 'not within' in result['endless']['failed'] and result['late'] == {'failed': 'no time was left'}


def test_what_a_measurement_started_ends_with_it(tmp_path):
  started = tmp_path / 'started'
  child = f'import time, pathlib, os; pathlib.Path({str(started)!r}).write_text(str(os.getpid())); time.sleep(60)'
  code = f'import subprocess, sys, time; subprocess.Popen([sys.executable, "-c", {child!r}]); time.sleep(60)'
  accelerator.measure({'endless': python(code)}, tmp_path / 'all.json', 3 / 60)  # time enough to start both
  for _ in range(100):
    stat = pathlib.Path(f'/proc/{started.read_text()}/stat')
    if not stat.exists() or stat.read_text().split()[2] == 'Z':
      return
    time.sleep(0.05)
  raise AssertionError('it runs on')


def test_all_run_once_at_once_before_each_is_measured_alone(tmp_path, monkeypatch):
  """The first time finds an empty cache, which all of them share."""
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  code = (
    'import json, os, pathlib, sys; cache = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]); '
    'known = cache.exists(); cache.mkdir(exist_ok=True); '
    'open(sys.argv[-1].partition("=")[2], "w").write(json.dumps({"compile": {"cold": not known}, "given": sys.argv[1:-1]}))'
  )
  result = accelerator.measure({'one': python(code)}, tmp_path / 'all.json', 1, at_once=2)
  assert result == {'one': {'compile': {'cold': False}, 'given': [], 'first': {'cold': True}}}


def test_the_most_wanted_comes_first_and_torch_compile_last():
  commands = accelerator.jobs(small=True, torch=True)
  compiled = ['--against=torch' in command and '--nocompiled' not in command for command in commands.values()]
  assert next(iter(commands)) == 'train_step, prediction, bfloat16' and compiled == sorted(compiled)
  assert sum(compiled) == 6 and len(commands) == 14
  assert all('--config.data.size=(32,48)' in command for command in commands.values())
  ours = accelerator.jobs(small=False, torch=False)
  assert len(ours) == 8 and not any('data.size' in flag for command in ours.values() for flag in command)
