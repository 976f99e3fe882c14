"""Converts a JAX function of images to an ONNX graph, operation by operation.

The function is traced for one image and vectorised, so that the batch is the only axis of unknown length. What does not
depend on an input is computed here, loops are unrolled, and every other operation becomes one or a few ONNX nodes of
the default domain. Constants that are equal are stored once.

jax2onnx 0.17.1 was tried first. It replaces functions of Flax while it traces, and then fails at our `nn.max_pool`.
Given a jaxpr instead, it cannot pad a batch of unknown length, and with that mended onnxruntime refuses its MaxPool. It
installs 18 packages, itself included, and an older Orbax.
"""

from collections.abc import Callable, Sequence
import hashlib
import math
from typing import Any, NamedTuple

import jax
import jax.export
from jax.extend import core
import numpy as np

from dmtl_jax.basics.errors import UserError

OPSET = 18  # of ONNX 1.13, January 2023
IR_VERSION = 8
END = np.iinfo(np.int64).max  # of an axis, in Slice


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

    value = np.ascontiguousarray(value)
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


class Unsupported(Exception):
  """An operation that this module does not convert."""


class Converted(NamedTuple):
  """The nodes and constants of a function, in order, and the names of its results."""

  nodes: list
  initializers: list
  outputs: dict[str, str]


def convert(function: Callable, inputs: dict[str, jax.ShapeDtypeStruct], batched: str) -> Converted:
  """Converts function(**inputs) -> {name: array} for one image.

  Args:
    inputs: shapes and dtypes by name, for one image.
    batched: the input that is one image; in the graph it, and every result, has the batch as its first axis.

  Raises:
    UserError: the function has an operation that is not converted.
  """
  (batch,) = jax.export.symbolic_shape('batch')
  shapes = {
    name: jax.ShapeDtypeStruct((batch, *x.shape), x.dtype) if name == batched else x for name, x in inputs.items()
  }

  def run(*values):
    return function(**dict(zip(inputs, values)))

  axes = [0 if name == batched else None for name in inputs]
  closed, results = jax.make_jaxpr(jax.vmap(run, axes), return_shape=True)(*shapes.values())
  graph = Graph(batched)
  arguments = [Tensor(name, dims(x.shape)) for name, x in shapes.items()]
  try:
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
      outputs = evaluate(graph, closed.jaxpr, closed.consts, arguments)
    named = {
      name: graph.full(x, dims(result.shape)).name
      for (name, result), x in zip(sorted(results.items()), outputs, strict=True)
    }
  except Unsupported as error:
    raise UserError(f'--out: this network has {error}, which is not converted to ONNX; write *.stablehlo') from error
  nodes, initializers = _needed(graph, set(named.values()))
  return Converted(nodes, initializers, {name: named[name] for name in results})


def _needed(graph: Graph, names: set[str]):
  """The nodes and constants on which these values depend."""
  nodes = []
  for node in reversed(graph.nodes):
    if names & set(node.output):
      nodes.append(node)
      names |= set(node.input)
  return nodes[::-1], [x for name, x in graph.initializers.items() if name in names]


def dims(shape) -> tuple[int | None, ...]:
  """A traced shape, None for the axis of unknown length."""
  return tuple(n if isinstance(n, int) else None for n in shape)


def evaluate(graph: Graph, jaxpr, consts: Sequence, arguments: Sequence) -> list:
  """Adds the operations of a jaxpr to the graph; returns its results, arrays where they do not depend on an input."""
  values = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, arguments))

  def read(variable):
    return variable.val if isinstance(variable, core.Literal) else values[variable]

  for equation in jaxpr.eqns:
    results = _evaluate_one(graph, equation, [read(x) for x in equation.invars])
    values.update(zip(equation.outvars, results))
  return [read(x) for x in jaxpr.outvars]


def _evaluate_one(graph: Graph, equation, inputs: list) -> Sequence:
  """The results of one operation: inlined if it is a function, computed if all inputs are known, else by its rule."""
  name, params = equation.primitive.name, equation.params
  if name == 'scan':
    return _unroll(graph, params, inputs)
  inner = next((params[key] for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr') if key in params), None)
  if inner is not None:
    return evaluate(graph, getattr(inner, 'jaxpr', inner), getattr(inner, 'consts', ()), inputs)
  shapes = [dims(x.aval.shape) for x in equation.outvars]
  if not any(isinstance(x, Tensor) for x in inputs) and not any(None in shape for shape in shapes):
    results = equation.primitive.bind(*inputs, **params)
    return results if equation.primitive.multiple_results else [results]
  if name not in RULES:
    raise Unsupported(f"the operation '{name}'")
  if name not in REPEATING:  # others take values as JAX has them
    inputs = [
      graph.full(x, dims(v.aval.shape)) if isinstance(x, Tensor) else x for x, v in zip(inputs, equation.invars)
    ]
  results = RULES[name](Operation(graph, params, shapes, [np.dtype(x.aval.dtype) for x in equation.outvars]), *inputs)
  return results if isinstance(results, list) else [results]


def _unroll(graph: Graph, params: dict, inputs: list) -> list:
  """The steps of a scan, one after the other."""
  split = params['num_consts'], params['num_consts'] + params['num_carry']
  consts, carry, xs = inputs[: split[0]], inputs[split[0] : split[1]], inputs[split[1] :]
  body = params['jaxpr']
  steps = []
  for i in reversed(range(params['length'])) if params['reverse'] else range(params['length']):
    element = [_take(graph, x, i) for x in xs]
    results = evaluate(graph, body.jaxpr, body.consts, [*consts, *carry, *element])
    carry = results[: params['num_carry']]
    steps.append(results[params['num_carry'] :])
  steps = steps[::-1] if params['reverse'] else steps
  avals = [x.aval for x in body.jaxpr.outvars[params['num_carry'] :]]
  stacked = [_stack(graph, [step[i] for step in steps], dims(aval.shape), 0) for i, aval in enumerate(avals)]
  return [*carry, *stacked]


def _take(graph: Graph, x, i: int):
  """x[i]."""
  if not isinstance(x, Tensor):
    return np.asarray(x)[i]
  return graph.add('Gather', x, np.int64(i), shape=x.shape[1:], axis=0)


def _stack(graph: Graph, values: list, shape: Sequence[int | None], axis: int) -> Tensor:
  """Values of one shape, along a new axis."""
  longer = [*shape[:axis], 1, *shape[axis:]]
  parts = [graph.reshape(graph.full(x, shape), longer) for x in values]
  return graph.add('Concat', *parts, shape=[*shape[:axis], len(parts), *shape[axis:]], axis=axis)


# --- Rules -----------------------------------------------------------------------------------


class Operation(NamedTuple):
  """An operation to convert: the graph to add it to, JAX's parameters, and the shapes and dtypes of its results."""

  graph: Graph
  params: dict
  shapes: list[tuple[int | None, ...]]
  dtypes: list[np.dtype]

  @property
  def shape(self) -> tuple[int | None, ...]:
    return self.shapes[0]


RULES: dict[str, Callable[..., Any]] = {}
REPEATING = {'broadcast_in_dim', 'transpose'}  # rules that take values whose axes are not repeated yet


def rule(*names: str):
  """Registers the rule of these operations, (operation, *inputs) -> result or list of results."""

  def register(function):
    RULES.update(dict.fromkeys(names, function))
    return function

  return register


def joint_shape(*inputs) -> tuple[int | None, ...]:
  """The shape of values that ONNX repeats where they meet."""
  shapes = [x.shape if isinstance(x, Tensor) else np.shape(x) for x in inputs]
  columns = zip(*(shape for shape in shapes if shape))  # a number has no axes
  return tuple(next((n for n in column if n != 1), 1) for column in columns)


def elementwise(name: str, *ops: str):
  """Registers an operation that is these of ONNX, one after the other."""
  REPEATING.add(name)

  @rule(name)
  def convert_elementwise(o: Operation, *inputs):
    shape = joint_shape(*inputs)
    result = o.graph.add(ops[0], *inputs, shape=shape)
    for op in ops[1:]:
      result = o.graph.add(op, result, shape=shape)
    return result


for _name, _ops in {
  'add': 'Add', 'add_any': 'Add', 'sub': 'Sub', 'mul': 'Mul', 'div': 'Div', 'max': 'Max', 'min': 'Min', 'pow': 'Pow',
  'gt': 'Greater', 'ge': 'GreaterOrEqual', 'lt': 'Less', 'le': 'LessOrEqual', 'eq': 'Equal', 'ne': 'Equal Not',
  'and': 'And', 'or': 'Or', 'not': 'Not', 'neg': 'Neg', 'exp': 'Exp', 'log': 'Log', 'tanh': 'Tanh', 'sign': 'Sign',
  'logistic': 'Sigmoid', 'erf': 'Erf', 'sqrt': 'Sqrt', 'rsqrt': 'Sqrt Reciprocal', 'abs': 'Abs', 'sin': 'Sin',
  'cos': 'Cos', 'floor': 'Floor', 'ceil': 'Ceil', 'copy': 'Identity', 'copy_p': 'Identity', 'stop_gradient': 'Identity',
}.items():  # fmt: skip
  elementwise(_name, *_ops.split())
REPEATING |= {'erfc', 'square', 'integer_pow', 'select_n', 'convert_element_type'}


@rule('erfc')
def _erfc(o: Operation, x):
  return o.graph.add('Sub', np.ones([1] * len(x.shape), np.float32), RULES['erf'](o, x), shape=x.shape)


@rule('square')
def _square(o: Operation, x):
  return o.graph.add('Mul', x, x, shape=x.shape)


@rule('integer_pow')
def _integer_pow(o: Operation, x):
  return o.graph.add('Pow', x, np.full([1] * len(x.shape), o.params['y'], o.dtypes[0]), shape=x.shape)


@rule('select_n')
def _select(o: Operation, which, *cases):
  if len(cases) != 2:
    raise Unsupported('a choice of more than two')
  return o.graph.add('Where', which, cases[1], cases[0], shape=joint_shape(which, *cases))


@rule('convert_element_type')
def _cast(o: Operation, x):
  return o.graph.add('Cast', x, shape=x.shape, to=_code(o.dtypes[0]))


def _code(dtype: np.dtype) -> int:
  """ONNX's number of a dtype."""
  import onnx

  return onnx.helper.np_dtype_to_tensor_dtype(dtype)


@rule('reshape', 'squeeze', 'expand_dims')
def _reshape(o: Operation, x):
  return o.graph.reshape(x, o.shape)


@rule('broadcast_in_dim')
def _broadcast(o: Operation, x):
  """Only adds axes of length 1; see `Tensor.shape`."""
  x = o.graph.tensor(x)
  shape: list[int | None] = [1] * len(o.shape)
  for axis, n in zip(o.params['broadcast_dimensions'], x.shape):
    shape[axis] = n
  return o.graph.reshape(x, shape)


@rule('transpose')
def _transpose(o: Operation, x):
  return o.graph.transpose(x, o.params['permutation'])


@rule('concatenate')
def _concatenate(o: Operation, *inputs):
  return o.graph.add('Concat', *inputs, shape=o.shape, axis=o.params['dimension'])


@rule('stack')
def _stack_rule(o: Operation, *inputs):
  axis = o.params['axis']
  return _stack(o.graph, list(inputs), (*o.shape[:axis], *o.shape[axis + 1 :]), axis)


@rule('tile')
def _tile(o: Operation, x):
  return o.graph.add('Tile', x, np.array(o.params['reps'], np.int64), shape=o.shape)


@rule('pad')
def _pad(o: Operation, x, value):
  low, high, between = zip(*o.params['padding_config'])
  if any(between):
    raise Unsupported('padding between values')
  return o.graph.add('Pad', x, np.array([*low, *high], np.int64), value, shape=o.shape)


@rule('slice')
def _slice(o: Operation, x):
  starts, stops = o.params['start_indices'], o.params['limit_indices']
  steps = o.params['strides'] or [1] * len(starts)
  cut = [i for i, n in enumerate(x.shape) if n is not None and (starts[i], stops[i], steps[i]) != (0, n, 1)]
  if not cut:
    return x
  columns = [[values[i] for i in cut] for values in (starts, stops)] + [cut, [steps[i] for i in cut]]
  return o.graph.add('Slice', x, *(np.array(column, np.int64) for column in columns), shape=o.shape)


@rule('split')
def _split(o: Operation, x):
  sizes = np.array(o.params['sizes'], np.int64)
  return o.graph.add_many('Split', x, sizes, shapes=o.shapes, axis=o.params['axis'])


def _reduce_rule(name: str, op: str):
  @rule(name)
  def convert_reduction(o: Operation, x):
    return o.graph.add(op, x, np.array(o.params['axes'], np.int64), shape=o.shape, keepdims=0)


for _name, _op in {'reduce_sum': 'ReduceSum', 'reduce_max': 'ReduceMax', 'reduce_min': 'ReduceMin'}.items():
  _reduce_rule(_name, _op)


@rule('argmax')
def _argmax(o: Operation, x):
  (axis,) = o.params['axes']
  return _cast(o, o.graph.add('ArgMax', x, shape=o.shape, axis=axis, keepdims=0))


def _pool_rule(name: str, op: str, **attributes):
  @rule(name)
  def convert_pooling(o: Operation, x):
    window, padding = o.params['window_dimensions'], o.params['padding']
    if any(n != 1 for n in (*o.params['base_dilation'], *o.params['window_dilation'])):
      raise Unsupported('a dilated pooling')
    strides = o.params['window_strides']
    pooled = [i for i in range(len(window)) if (window[i], strides[i], *padding[i]) != (1, 1, 0, 0)]
    order = [i for i in range(len(window)) if i not in pooled] + pooled
    rows = o.graph.transpose(x, order)
    flat = o.graph.reshape(rows, [None, 1, *(x.shape[i] for i in pooled)])
    result = o.graph.add(
      op,
      flat,
      shape=[None, 1, *(o.shape[i] for i in pooled)],
      kernel_shape=[window[i] for i in pooled],
      strides=[strides[i] for i in pooled],
      pads=[padding[i][side] for side in (0, 1) for i in pooled],
      **attributes,
    )
    if op == 'AveragePool':
      result = o.graph.add('Mul', result, np.float32(math.prod(window)), shape=result.shape)
    restored = o.graph.reshape(result, [o.shape[i] for i in order])
    return o.graph.transpose(restored, np.argsort(order).tolist())


_pool_rule('reduce_window_max', 'MaxPool')
_pool_rule('reduce_window_sum', 'AveragePool', count_include_pad=1)


@rule('conv_general_dilated')
def _convolve(o: Operation, x, kernel):
  p = o.params
  numbers = p['dimension_numbers']
  if p['batch_group_count'] != 1 or any(n != 1 for n in p['lhs_dilation']):
    raise Unsupported('a transposed convolution')
  out = numbers.out_spec
  result = o.graph.add(
    'Conv',
    o.graph.transpose(x, numbers.lhs_spec),
    o.graph.transpose(kernel, numbers.rhs_spec),
    shape=[o.shape[i] for i in out],
    strides=list(p['window_strides']),
    dilations=list(p['rhs_dilation']),
    group=p['feature_group_count'],
    pads=[pad[side] for side in (0, 1) for pad in p['padding']],
  )
  return o.graph.transpose(result, np.argsort(out).tolist())


@rule('dot_general')
def _dot(o: Operation, x, y):
  """A product of matrices, with the axes of each side merged to [batch, rows, contracted] and its counterpart."""
  (contracted_x, contracted_y), (batch_x, batch_y) = o.params['dimension_numbers']
  left = _matrices(o.graph, x, batch_x, contracted_x, contracted_last=True)
  right = _matrices(o.graph, y, batch_y, contracted_y, contracted_last=False)
  shape = [*left.shape[:-1], right.shape[-1]]
  return o.graph.reshape(o.graph.add('MatMul', left, right, shape=shape), o.shape)


def _matrices(graph: Graph, x, batch: Sequence[int], contracted: Sequence[int], contracted_last: bool) -> Tensor:
  sizes = x.shape
  free = [i for i in range(len(sizes)) if i not in (*batch, *contracted)]
  last = [free, contracted] if contracted_last else [contracted, free]
  x = graph.tensor(graph.transpose(x, [*batch, *last[0], *last[1]]))

  def merged(axes: Sequence[int]) -> int | None:
    lengths = [sizes[i] for i in axes]
    return None if any(not isinstance(n, int) for n in lengths) else math.prod(lengths)

  groups = [batch, *last] if batch else last
  return graph.reshape(x, [merged(axes) for axes in groups])
