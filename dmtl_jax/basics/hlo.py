"""Reads the text of a program that XLA compiled."""

import math
import re

COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\{$')
ARRAY = re.compile(r'\b([a-z]+)(\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\]')
CALLED = re.compile(
  r'(?:calls|body|true_computation|false_computation)=%?([\w.-]+)|branch_computations=\{([^}]*)\}'
  r'|(?<![\w-])call\(.*to_apply=%?([\w.-]+)'
)
CONDITION = re.compile(r'condition=%?([\w.-]+)')
TRIPS = re.compile(r'known_trip_count\W+n\W+(\d+)')
BOUND = re.compile(r' constant\((\d+)\)')


class Program:
  """A compiled program.

  Attributes:
    computations: the lines of each by its name.
    entry: name of the computation that runs.
  """

  def __init__(self, text: str):
    self.computations: dict[str, list[str]] = {}
    self.entry = ''
    lines: list[str] = []
    for line in text.split('\n'):
      if match := COMPUTATION.match(line):
        lines = self.computations.setdefault(match[2], [])
        self.entry = match[2] if match[1] else self.entry
      else:
        lines.append(line)

  def repeats(self, line: str) -> int:
    """How often an instruction runs what it calls: 1 unless it is a loop."""
    if known := TRIPS.search(line):
      return int(known[1])
    condition = CONDITION.search(line)
    bounds = BOUND.findall('\n'.join(self.computations[condition[1]])) if condition else []
    return max([1, *map(int, bounds)])


def called(line: str) -> list[str]:
  """Names of the computations that an instruction calls: of a fusion, a loop's body, the branches of a condition."""
  names = []
  for one, branches, function in CALLED.findall(line):
    names += re.findall(r'[\w.-]+', branches) if branches else [one or function]
  return names


def array_bytes(types: str) -> int:
  """Bytes of an array type, or of the arrays of a tuple."""
  total = 0
  for kind, bits, shape in ARRAY.findall(types):
    width = 1 if kind == 'pred' else int(bits or 8) / 8
    total += math.prod(int(n) for n in shape.split(',') if n) * width
  return int(total)
