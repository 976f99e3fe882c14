"""Converts a JAX function of images to an ONNX graph, operation by operation.

The function is traced for one image and vectorised, so that the batch is the only axis of unknown length. What does not
depend on an input is computed here, loops are unrolled, and every other operation becomes one or a few ONNX nodes of
the default domain (`onnx_rules`).

jax2onnx 0.17.1 was tried first. It replaces functions of Flax while it traces, and then fails at our `nn.max_pool`.
Given a jaxpr instead, it cannot pad a batch of unknown length, and with that mended onnxruntime refuses its MaxPool. It
installs 18 packages, itself included, and an older Orbax.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.export
from jax.extend import core
import numpy as np

from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference.onnx_graph import Graph, Tensor, Unsupported
from dmtl_jax.inference.onnx_rules import Operation, REPEATING, RULES


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
  graph = Graph(batched)
  arguments = [Tensor(name, dims(x.shape)) for name, x in shapes.items()]
  try:
    with jax.default_matmul_precision('float32'):  # constants are computed here, also by accelerators that round more
      closed, results = jax.make_jaxpr(jax.vmap(run, axes), return_shape=True)(*shapes.values())
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
    jaxpr = getattr(inner, 'jaxpr', inner)
    if _shapes(jaxpr.invars) == _shapes(equation.invars):  # that of a reduction is of two numbers
      return evaluate(graph, jaxpr, getattr(inner, 'consts', ()), inputs)
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


def _shapes(variables: Sequence) -> list[tuple]:
  return [x.aval.shape for x in variables]


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
  stacked = [graph.stack([step[i] for step in steps], dims(aval.shape), 0) for i, aval in enumerate(avals)]
  return [*carry, *stacked]


def _take(graph: Graph, x, i: int):
  """x[i]."""
  if not isinstance(x, Tensor):
    return np.asarray(x)[i]
  first_axis = x.shape[0]
  return graph.add('Gather', x, np.int64(0 if first_axis == 1 else i), shape=x.shape[1:], axis=0)
