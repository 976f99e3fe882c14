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

# Takes and returns 2.5 GB that it never touches, so that they are only addresses; prints by how much the heap has grown,
# or -1 where there is no room for them.
GROWTH = """
import ctypes
from dmtl_jax.basics import memory

memory.keep_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.sbrk.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_ssize_t], [ctypes.c_void_p]
before = libc.sbrk(0)
block = libc.malloc(5 * 2**29)
libc.free(block)
print(libc.sbrk(0) - before if block else -1)
"""

# Fills 400 MB of blocks of 1 MB and returns every second one. Prints by how many MB the process then shrinks, and whether
# a new block of half the size lies behind all of them (1) or within one (0).
FRAGMENTS = """
import ctypes, mmap
from dmtl_jax.basics import memory

def resident():
  with open('/proc/self/statm') as file:
    return int(file.read().split()[1]) * mmap.PAGESIZE

memory.keep_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [libc.malloc(2**20) for _ in range(400)]
for block in blocks:
  ctypes.memset(block, 1, 2**20)
for block in blocks[:-1:2]:
  libc.free(block)
before = resident()
for _ in range(CALLS):
  memory.set_fragments_aside()
print((before - resident()) >> 20, int(libc.malloc(2**19) > blocks[-1]))
"""

pytestmark = [
  pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc'),
  pytest.mark.skipif(any(map(glob.glob, memory.ACCELERATORS)), reason='a GPU or TPU is here'),
]


def run(script: str) -> int:
  return int(output(script))


def output(script: str) -> bytes:
  return subprocess.run([sys.executable, '-c', script], stdout=subprocess.PIPE, check=True).stdout


def test_freed_blocks_are_used_again_without_page_faults():
  assert run(FAULTS) < 10  # otherwise 16384, or 32 where the system makes huge pages


def test_a_heap_of_more_than_two_gigabytes_is_kept():
  growth = run(GROWTH)
  if growth < 0:
    pytest.skip('no address space for 2.5 GB')
  assert growth >= 5 * 2**29


@pytest.mark.parametrize('calls', [0, 1, 2])
def test_fragments_set_aside_are_not_used_and_take_no_memory(calls):
  freed, is_behind = map(int, output(FRAGMENTS.replace('CALLS', str(calls))).split())
  assert (freed >= 190) == (calls > 0)
  assert is_behind == (calls > 0)
