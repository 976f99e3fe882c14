"""Bytes that a compiled program moves between a device's memory and its cores.

They are read from the program's text. XLA's own count, `cost_analysis`, takes the body of a loop once, includes arrays
that stay on a TPU's chip, and is missing for GPUs. Caches are not modelled.
"""

from collections import defaultdict
import re

from dmtl_jax.basics import hlo
from dmtl_jax.basics.hlo import Instruction

ON_CHIP = re.compile(r'S\([1-9]')  # the memory space in a TPU's layout
# Transfers beside other work, and the place of their source among the arrays of what begins them.
TRANSFERS = {'copy-done': 1, 'slice-done': 0}
SLICES = frozenset(('dynamic-slice', 'slice', 'gather'))


def count(text: str) -> float:
  """Bytes that one run of a compiled program reads and writes in the device's memory.

  Every instruction reads its operands and writes its result; a fusion is one instruction. A slice reads only what it
  takes, and an update in place writes only what it replaces. The body of a loop counts as often as it runs, and of the
  branches of a condition the largest.
  """
  program = hlo.Program(text)
  return _Counter(program).computation(program.entry)


class _Counter:
  """Counts the bytes of a program's computations."""

  def __init__(self, program: hlo.Program):
    self._program = program
    self._types = {each.name: each.type for lines in program.computations.values() for each in lines}

  def computation(self, name: str) -> float:
    """Bytes of one run of a computation."""
    return sum(self._instruction(each) for each in self._program.computations.get(name, ()))

  def _instruction(self, each: Instruction) -> float:
    if each.kind in hlo.STILL or 'AllocateBuffer' in each.line:
      return 0
    called = hlo.called(each.line)
    if each.kind in hlo.CALLS:
      sizes = [self.computation(name) for name in called]
      return max(sizes, default=0) if each.kind == 'conditional' else sum(sizes) * self._program.repeats(each.line)
    operands = [self._types.get(name, '') for name in each.operands]
    if each.kind in TRANSFERS:  # from memory to memory, or between memory and chip
      source = hlo.arrays(' '.join(operands))[TRANSFERS[each.kind] :][:1]
      return _stored(each.type) + (hlo.array_bytes(each.type) if source and _stored(source[0]) else 0)
    if each.kind in hlo.WITH_OPERANDS:
      return _stored(each.type)
    if each.kind == 'fusion' and called:
      return self._fusion(called[0], each, operands)
    if each.kind in SLICES:
      return _stored(each.type) + _stored(each.type if _stored(operands[0]) else '')
    if each.kind == 'dynamic-update-slice':
      return 2 * _stored(operands[1])
    return _stored(each.type) + sum(map(_stored, operands))

  def _fusion(self, computation: str, each: Instruction, operands: list[str]) -> float:
    inside = self._program.computations[computation]
    users: dict[str, list[Instruction]] = defaultdict(list)
    for one in inside:
      for name in one.operands:
        users[name].append(one)
    parameters = {int(one.line.split('parameter(')[1].split(')')[0]): one for one in inside if one.kind == 'parameter'}
    read = 0
    for i, operand in enumerate(operands):
      size = _stored(operand)
      read += min(size, _read(parameters[i].name, users, size)) if i in parameters else size
    by_name = {one.name: one for one in inside}
    root = next(one for one in inside if one.is_root)
    results = [by_name[name] for name in root.operands] if root.kind == 'tuple' else [root]
    return read + sum(min(_stored(t), self._written(one, by_name)) for t, one in zip(hlo.arrays(each.type), results))

  def _written(self, result: Instruction, by_name: dict[str, Instruction]) -> float:
    """Bytes that a fusion writes of one of its results."""
    while result.kind == 'bitcast' and result.operands[0] in by_name:
      result = by_name[result.operands[0]]
    is_update = result.kind == 'dynamic-update-slice'
    return hlo.array_bytes(self._types.get(result.operands[1], '') if is_update else result.type)


def _read(parameter: str, users: dict[str, list[Instruction]], size: float) -> float:
  """Bytes that a fusion reads of a parameter of `size` bytes."""
  read = 0
  for user in users[parameter]:
    if user.kind == 'bitcast':
      read += _read(user.name, users, size)
    elif user.kind in SLICES and user.operands[0] == parameter:
      read += hlo.array_bytes(user.type)
    elif not (user.kind == 'dynamic-update-slice' and user.operands[0] == parameter):
      return size
  return read


def _stored(types: str) -> float:
  """Bytes of an array type, or of the arrays of a tuple, that are in the device's memory."""
  return sum(hlo.array_bytes(each) for each in hlo.arrays(types) if not ON_CHIP.search(each))
