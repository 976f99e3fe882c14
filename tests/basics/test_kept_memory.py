"""Memory that malloc keeps, measured by page faults."""

import glob
import platform
import subprocess
import sys

import pytest

from dmtl_jax.basics import memory

# A thread takes, fills and returns 64 MB twice; prints the page faults of the second time.
FAULTS = """
import concurrent.futures, resource
from dmtl_jax.basics import memory

memory.keep_freed()

def take():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  b'x' * 2**26
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with concurrent.futures.ThreadPoolExecutor(1) as thread:
  thread.submit(take).result()
  print(thread.submit(take).result())
"""


def faults() -> int:
  return int(subprocess.run([sys.executable, '-c', FAULTS], stdout=subprocess.PIPE, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
@pytest.mark.skipif(any(map(glob.glob, memory.ACCELERATORS)), reason='a GPU or TPU is here')
def test_freed_blocks_are_used_again_without_page_faults():
  assert faults() < 10  # otherwise 16384, or 32 where the system makes huge pages
