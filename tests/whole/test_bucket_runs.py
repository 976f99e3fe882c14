"""Runs in a bucket: through kills and outages to the same bits as on disk, and what other commands do with them."""

import subprocess
import sys

import pytest

from tests import faults

pytest.importorskip('gcsfs', reason='gcsfs, through which Orbax lists a bucket, is not installed')


@pytest.mark.parametrize(
  'flags, last',
  [
    (('--kills=2', '--seed=5', '--longest=2'), 'all ended with the same bits'),
    (('--outages',), 'token expired: the same bits'),
    (('--others',), 'data in the bucket: the same bits'),
    (('--changing',), '2 processes, 1, 2: the same run'),
  ],
)
def test_a_run_in_a_bucket_ends_with_the_bits_of_one_on_disk(flags, last):
  command = [sys.executable, '-m', 'tests.bucket_faults', *flags]
  done = subprocess.run(command, cwd=faults.ROOT, capture_output=True, text=True, timeout=900)
  assert done.returncode == 0, done.stdout + done.stderr
  assert last in done.stdout.splitlines()[-1]
