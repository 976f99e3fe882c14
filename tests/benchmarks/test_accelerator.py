"""All measurements of an accelerator by one command: each is kept, whatever becomes of the others."""

import json
import sys

from dmtl_jax.benchmarks import accelerator

WRITES = 'import sys; open(sys.argv[-1].partition("=")[2], "w").write(\'{"seconds": 2}\')'


def test_what_fails_or_takes_too_long_is_named_and_the_rest_is_kept(tmp_path):
  python = lambda code: [sys.executable, '-c', code]
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
  assert result['endless'] == result['late'] == {'failed': 'not within the 0.05 minutes'}


def test_ours_alone_comes_before_the_contests_with_torch():
  commands = accelerator.jobs(small=True, torch=True)
  torch = ['--against=torch' in command for command in commands.values()]
  assert next(iter(commands)) == 'train_step, prediction, bfloat16' and torch == sorted(torch) and sum(torch) == 6
  assert all('--config.data.size=(32,48)' in command for command in commands.values())
  ours = accelerator.jobs(small=False, torch=False)
  assert len(ours) == 7 and not any('data.size' in flag for command in ours.values() for flag in command)
