"""A graph of ONNX while it grows: values, nodes and constants. Constants that are equal are stored once."""

from collections.abc import Sequence
import hashlib
from typing import Any, NamedTuple

import numpy as np

OPSET = 18  # of ONNX 1.13, January 2023
IR_VERSION = 8


class Tensor(NamedTuple):
  """A value that the graph computes.

  Attributes:
    name: of the value in the graph.
    shape: as the graph holds it, None for the batch. An axis that was repeated may still have length 1, since ONNX
      repeats it where two values meet; see `Graph.full`.
  """

  name: str
  shape: tuple[int | None, ...]


class Graph:
  """The nodes and constants of a graph while it grows."""

  def __init__(self, batch_of: str):
    self.nodes = []
    self.initializers = {}
    self._batch_of = batch_of
    self._batch: Tensor | None = None

  def constant(self, value) -> Tensor:
    """A constant of the graph; equal ones share a name."""
    import onnx

    value = np.asarray(value)
    digest = hashlib.sha256(value.tobytes()).hexdigest()
    name = f'{value.dtype}{list(value.shape)}{digest[:24]}'.replace(' ', '')
    if name not in self.initializers:
      self.initializers[name] = onnx.numpy_helper.from_array(value, name)
    return Tensor(name, value.shape)

  def tensor(self, value) -> Tensor:
    return value if isinstance(value, Tensor) else self.constant(value)

  def add(self, op: str, *inputs, shape: Sequence[int | None], **attributes) -> Tensor:
    """Adds a node of one result of this shape."""
    return self.add_many(op, *inputs, shapes=[shape], **attributes)[0]

  def add_many(self, op: str, *inputs, shapes: Sequence[Sequence[int | None]], **attributes) -> list[Tensor]:
    """Adds a node of several results."""
    import onnx

    outputs = [Tensor(f'{op}_{len(self.nodes)}_{i}', tuple(shape)) for i, shape in enumerate(shapes)]
    names = [self.tensor(x).name for x in inputs]
    self.nodes.append(onnx.helper.make_node(op, names, [x.name for x in outputs], **attributes))
    return outputs

  def reshape(self, x: Tensor, shape: Sequence[int | None]) -> Tensor:
    if tuple(shape) == x.shape:
      return x
    if list(shape).count(None) > 1:
      raise Unsupported('a reshape of two unknown axes')
    sizes = np.array([-1 if n is None else n for n in shape], np.int64)
    return self.add('Reshape', x, sizes, shape=shape)

  def transpose(self, x, order: Sequence[int]):
    if list(order) == sorted(order):
      return x
    if not isinstance(x, Tensor):
      return np.transpose(x, order)
    return self.add('Transpose', x, shape=[x.shape[i] for i in order], perm=list(order))

  def full(self, x, shape: Sequence[int | None]) -> Tensor:
    """The value with all axes repeated to `shape`, for operations that do not repeat them themselves."""
    x = self.tensor(x)
    if x.shape == tuple(shape):
      return x
    sizes: Any = np.array([1 if n is None else n for n in shape], np.int64)
    if any(n is None and m is not None for n, m in zip(shape, x.shape)):
      if self._batch is None:
        first = self.add('Shape', Tensor(self._batch_of, ()), shape=[1], start=0, end=1)
        self._batch = first
      parts = [self._batch if n is None else np.array([n], np.int64) for n in shape]
      sizes = self.add('Concat', *parts, shape=[len(parts)], axis=0)
    return self.add('Expand', x, sizes, shape=shape)

  def stack(self, values: Sequence, shape: Sequence[int | None], axis: int) -> Tensor:
    """Values of one shape, along a new axis."""
    longer = [*shape[:axis], 1, *shape[axis:]]
    parts = [self.reshape(self.full(x, shape), longer) for x in values]
    return self.add('Concat', *parts, shape=[*shape[:axis], len(parts), *shape[axis:]], axis=axis)


class Unsupported(Exception):
  """An operation that is not converted."""
