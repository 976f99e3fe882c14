"""Memory that this process has freed, kept for its next use instead of being returned to the system."""

import ctypes
import glob
import mmap

# Parameters of glibc's `mallopt`, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
NEVER = -1  # as a threshold; a number of bytes would be 2 GiB at most
MADV_DONTNEED = 4  # from Linux's mman.h
LARGEST, SMALLEST = 2**26, 2**14  # bytes of the fragments that are set aside
ACCELERATORS = ('/dev/nvidia[0-9]*', '/dev/kfd', '/dev/accel*', '/dev/vfio/[0-9]*')  # GPUs and TPUs

_aside: list[int] | None = None  # addresses of the fragments set aside; None before `keep_freed`


class _HeapFacts(ctypes.Structure):
  """`struct mallinfo2` of glibc; `keepcost` are the free bytes at the end of the heap."""

  _fields_ = [
    (name, ctypes.c_size_t)
    for name in 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'.split()
  ]


def keep_freed():
  """Makes glibc keep freed memory. Does nothing with another libc, or with a GPU or TPU.

  A program compiled for CPUs takes its temporaries from malloc in every call, and malloc returns blocks of that size to
  the system: the training step of `scenes` spent a third of its time on page faults. Now all blocks lie in one heap,
  which does not shrink. Threads must share it: heaps of their own are too small for such blocks. On one core
  sharing costs nothing: with 1, 4 and 8 threads the input pipeline took 3.8, 3.8 and 3.9 ms of CPU per image, and 4.0,
  4.1 and 4.2 with heaps of their own (PASCAL at 512x512). Many cores were not measured. Photographs of 12 megapixels
  are predicted in 1.2 s of CPU instead of 1.5.

  `--mode=train`, `--mode=evaluate` and `--mode=predict` call it, the functions of Python do not: from then on the whole
  process keeps its memory, which is for the program to decide. A program may call it at any time, also after JAX has
  started, or be started with
  GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=0xffffffffffffffff:glibc.malloc.arena_max=1
  """
  global _aside
  if any(map(glob.glob, ACCELERATORS)):
    return
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):  # not glibc
    return
  for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_ARENA_MAX, 1)):
    mallopt(parameter, value)
  _aside = []


def set_fragments_aside():
  """Takes free blocks between used ones away from malloc, after `keep_freed`, and returns their pages to the system.

  XLA's compiler leaves tens of thousands of them. malloc keeps lists of them by size, and walks through these when an
  operation takes or returns a temporary: that took 14 of the 128 ms of a step of `scenes`, but 2 with a program from
  the cache. What an earlier call took is given back first. Call it only after compiling: what is then allocated lies
  behind all fragments, so each call can lengthen the heap, though not the memory in use, by as much as a step takes.
  """
  if _aside is None:
    return
  libc = ctypes.CDLL(None)
  if not hasattr(libc, 'mallinfo2'):  # before glibc 2.33
    return
  libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
  libc.malloc.argtypes = [ctypes.c_size_t]
  libc.free.argtypes = [ctypes.c_void_p]
  libc.sbrk.argtypes = [ctypes.c_ssize_t]
  libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
  libc.mallinfo2.restype = _HeapFacts
  while _aside:
    libc.free(_aside.pop())
  heap = libc.mallinfo2()
  end = libc.sbrk(0) - heap.keepcost  # behind it everything is free
  left = heap.fordblks - heap.keepcost
  size = LARGEST
  while size >= SMALLEST and left > 0:
    block = libc.malloc(size)
    if block and block < end:
      _aside.append(block)
      left -= size
      start, stop = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE, (block + size) // mmap.PAGESIZE * mmap.PAGESIZE
      libc.madvise(start, max(stop - start, 0), MADV_DONTNEED)
    else:  # no fragment of this size is left
      libc.free(block)
      size //= 2
