"""How operations of JAX become nodes of ONNX: a rule per operation, in `RULES`."""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from dmtl_jax.inference.onnx_graph import Graph, Tensor, Unsupported


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
def _stack(o: Operation, *inputs):
  axis = o.params['axis']
  return o.graph.stack(inputs, (*o.shape[:axis], *o.shape[axis + 1 :]), axis)


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
    return o.graph.add(op, x, np.array(o.params['axes'], np.int64), shape=o.shape, keepdims=0, noop_with_empty_axes=1)


for _name, _op in {'reduce_sum': 'ReduceSum', 'reduce_max': 'ReduceMax', 'reduce_min': 'ReduceMin'}.items():
  _reduce_rule(_name, _op)


def _argument_rule(name: str, op: str):
  @rule(name)
  def convert_argument(o: Operation, x):
    (axis,) = o.params['axes']
    return _cast(o, o.graph.add(op, x, shape=o.shape, axis=axis, keepdims=0))


_argument_rule('argmax', 'ArgMax')
_argument_rule('argmin', 'ArgMin')


@rule('gather')
def _gather(o: Operation, x, indices):
  """Rows of x, for indices [..., 1]."""
  numbers, rank = o.params['dimension_numbers'], len(x.shape)
  takes_rows = (
    tuple(numbers.collapsed_slice_dims) == tuple(numbers.start_index_map) == (0,)
    and not numbers.operand_batching_dims
    and tuple(o.params['slice_sizes']) == (1, *x.shape[1:])
    and tuple(numbers.offset_dims) == tuple(range(len(o.shape) - rank + 1, len(o.shape)))
  )
  if not takes_rows:
    raise Unsupported('indexing of other parts than rows')
  indices = o.graph.tensor(indices)
  return o.graph.add('Gather', x, o.graph.reshape(indices, indices.shape[:-1]), shape=o.shape, axis=0)


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
