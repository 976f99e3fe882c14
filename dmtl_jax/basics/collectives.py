"""Collectives of a compiled program: how often a device takes part in one, and how many bytes it sends.

They are read from the program's text, since JAX reports neither. Bytes are the least that a device must send: with n
devices that exchange an array of S bytes, 2 (n - 1) / n S for an all-reduce, (n - 1) / n S for a reduce-scatter, an
all-gather and an all-to-all, and S for a permutation.
"""

import math
import re
from typing import NamedTuple

from dmtl_jax.basics import hlo

KINDS = frozenset(('all-reduce', 'reduce-scatter', 'all-gather', 'all-to-all', 'collective-permute'))
# The groups of devices that exchange with each other, in the three forms that XLA writes: {{0,1},{2,3}}; [2,2]<=[4],
# two groups of two; and the axes of a mesh, mesh['a'=2,'b'=2] {'a'}. None: one group of all.
LISTED = re.compile(r'replica_groups=\{\{([\d,]+)\}')
SHAPED = re.compile(r'replica_groups=\[\d+,(\d+)\]')
NAMED = re.compile(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}')


class Exchange(NamedTuple):
  """The collectives of one kind in a program.

  Attributes:
    count: how many a device takes part in.
    bytes: sent by a device in all of them.
  """

  count: int
  bytes: float


def find(text: str, devices: int) -> dict[str, Exchange]:
  """The collectives of a compiled program by kind.

  The body of a loop counts as often as it runs, and every branch of a condition counts.

  Args:
    text: HLO of the compiled program.
    devices: that run it.
  """
  program = hlo.Program(text)
  found: dict[str, Exchange] = {}

  def visit(name: str, times: int):
    for each in program.computations.get(name, ()):
      kind = each.kind.removesuffix('-start')
      if kind in KINDS:
        size = hlo.array_bytes(each.type)
        group = _group_size(each.line, devices)
        if kind != each.kind:  # it runs beside other work, and its result holds the operand too
          size = {'all-gather': size * group // (group + 1), 'collective-permute': size // 2}.get(kind, size)
        if 'all-reduce-scatter' in name:  # how a TPU does it: an all-reduce fused with the choice of a part
          kind = 'reduce-scatter'
          size //= group
        if group > 1:
          before = found.get(kind, Exchange(0, 0.0))
          found[kind] = Exchange(before.count + times, before.bytes + times * _sent(kind, size, group))
      for called in hlo.called(each.line):
        visit(called, times * program.repeats(each.line))

  visit(program.entry, 1)
  return found


def _group_size(line: str, devices: int) -> int:
  """Devices that take part in the collective together."""
  if match := LISTED.search(line):
    return match[1].count(',') + 1
  if match := SHAPED.search(line):
    return int(match[1])
  if match := NAMED.search(line):
    sizes = dict(re.findall(r"'([^']*)'=(\d+)", match[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']*)'", match[2]))
  return devices


def _sent(kind: str, size: int, group: int) -> float:
  """Bytes that each device of a group sends, given those of a collective's result."""
  if kind == 'all-reduce':
    return 2 * (group - 1) / group * size
  if kind == 'reduce-scatter':  # whose result is a part of what is exchanged
    return (group - 1) * size
  if kind == 'collective-permute':
    return size
  return (group - 1) / group * size
