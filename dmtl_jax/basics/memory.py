"""Memory that this process has freed, kept for its next use instead of being returned to the system."""

import ctypes
import glob

# Parameters of glibc's `mallopt`, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
NEVER = -1  # as a threshold; a number of bytes would be 2 GiB at most
ACCELERATORS = ('/dev/nvidia[0-9]*', '/dev/kfd', '/dev/accel*', '/dev/vfio/[0-9]*')  # GPUs and TPUs


def keep_freed():
  """Makes glibc keep freed memory. Does nothing with another libc, or with a GPU or TPU.

  A program compiled for CPUs takes its temporaries from malloc in every call, and malloc returns blocks of that size to
  the system: the training step of `scenes` spent a third of its time on page faults. Now all blocks lie in one heap,
  which does not shrink. Threads must share it: heaps of their own are too small for such blocks. On one core
  sharing costs nothing: with 1, 4 and 8 threads the input pipeline took 3.8, 3.8 and 3.9 ms of CPU per image, and 4.0,
  4.1 and 4.2 with heaps of their own (PASCAL at 512x512). Many cores were not measured.

  Photographs of 12 megapixels are predicted in 1.2 s of CPU instead of 1.5.

  `--mode=train`, `--mode=evaluate` and `--mode=predict` call it, the functions of Python do not: from then on the whole
  process keeps its memory, which is for the program to decide. A program may call it at any time, also after JAX has
  started, or be started with
  GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=0xffffffffffffffff:glibc.malloc.arena_max=1
  """
  if any(map(glob.glob, ACCELERATORS)):
    return
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):  # not glibc
    return
  for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_ARENA_MAX, 1)):
    mallopt(parameter, value)
