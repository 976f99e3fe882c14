"""Reads the text of a program that XLA compiled."""

import math
import re
from typing import NamedTuple

COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\{$')
INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$')
OPERAND = re.compile(r'%([\w.-]+)')
TYPE = re.compile(r'\w+\[[\d,]*\](?:\{[^}]*\})?')
ARRAY = re.compile(r'\b([a-z]+)(\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\]')
CALLED = re.compile(
  r'(?:calls|body|true_computation|false_computation)=%?([\w.-]+)|branch_computations=\{([^}]*)\}'
  r'|(?<![\w-])call\(.*to_apply=%?([\w.-]+)'
)
CONDITION = re.compile(r'condition=%?([\w.-]+)')
TRIPS = re.compile(r'known_trip_count\W+n\W+(\d+)')
BOUND = re.compile(r' constant\((\d+)\)')
# Instructions that run computations, whose instructions do the work.
CALLS = frozenset(('while', 'conditional', 'call', 'async-start'))
# Instructions that neither read nor write an array. A copy or slice beside other work does so where it ends, other such
# pairs where they begin.
STILL = frozenset(
  'parameter constant tuple get-tuple-element bitcast after-all opt-barrier partition-id replica-id copy-start '
  'slice-start async-update async-done all-reduce-done all-gather-done collective-permute-done'.split()
)
WITH_OPERANDS = frozenset(('all-gather-start', 'collective-permute-start'))  # first in the tuples that they return


class Instruction(NamedTuple):
  """One instruction; `type` is that of its result, `operands` are names, and `line` its text."""

  name: str
  type: str
  kind: str
  operands: list[str]
  line: str
  is_root: bool


class Program:
  """A compiled program.

  Attributes:
    computations: the instructions of each by its name.
    entry: name of the computation that runs.
  """

  def __init__(self, text: str):
    self.computations: dict[str, list[Instruction]] = {}
    self.entry = ''
    instructions: list[Instruction] = []
    for line in text.split('\n'):
      if match := COMPUTATION.match(line):
        instructions = self.computations.setdefault(match[2], [])
        self.entry = match[2] if match[1] else self.entry
      elif match := INSTRUCTION.match(line):
        operands = OPERAND.findall(match[5].split('), ')[0])
        instructions.append(Instruction(match[2], match[3], match[4], operands, line, bool(match[1])))

  def running(self) -> list[Instruction]:
    """Instructions of the entry, of loops, branches and functions, each once; without those inside fusions."""
    names = [self.entry]
    for name in names:  # which grows
      for each in self.computations.get(name, ()):
        if each.kind in CALLS:
          names += [inside for inside in called(each.line) if inside not in names]
    return [each for name in names for each in self.computations.get(name, ())]

  def repeats(self, line: str) -> int:
    """How often an instruction runs what it calls: 1 unless it is a loop."""
    if known := TRIPS.search(line):
      return int(known[1])
    condition = CONDITION.search(line)
    inside = self.computations[condition[1]] if condition else []
    bounds = BOUND.findall('\n'.join(each.line for each in inside))
    return max([1, *map(int, bounds)])


def called(line: str) -> list[str]:
  """Names of the computations that an instruction calls: of a fusion, a loop's body, the branches of a condition."""
  names = []
  for one, branches, function in CALLED.findall(line):
    names += re.findall(r'[\w.-]+', branches) if branches else [one or function]
  return names


def arrays(types: str) -> list[str]:
  """The array types in a type, with their layouts: one, or those of a tuple."""
  return TYPE.findall(types)


def array_bytes(types: str) -> int:
  """Bytes of an array type, or of the arrays of a tuple."""
  total = 0
  for kind, bits, shape in ARRAY.findall(types):
    width = 1 if kind == 'pred' else int(bits or 8) / 8
    total += math.prod(int(n) for n in shape.split(',') if n) * width
  return int(total)
