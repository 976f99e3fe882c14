"""A trained predictor as an ONNX model, and its check against the predictor.

Inputs and results of the model:

  image            uint8 [batch, H, W, 3], RGB, at the size of training; any batch
  noise            float32 [draws, tasks, h, w, channels], of methods that add noise. It has a value, drawn from
                   config.seed, so it need not be given; zeros leave the noise out, other standard normal numbers give
                   other samples. All images of a batch share it.
  TASK             the final prediction, calibrated as that of `prediction.load`
  initial/TASK     the prediction before denoising, of methods that make one

The network computes in float32, whatever config.dtype was. The model's metadata name the run, its step, the tasks with
classes and value ranges, and the versions that wrote it.
"""

import importlib.metadata
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics import target
from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import onnx_convert, onnx_graph
from dmtl_jax.inference.forward import predict_map
from dmtl_jax.inference.prediction import Predictor
from dmtl_jax.models.inputs import model_inputs, normalize
from dmtl_jax.tasks import Task

MAX_BYTES = 2**31 - 1  # of a protocol buffer
TOLERANCE = 1e-3  # ten times the difference that rounding makes
MAX_SHARE = 1e-3  # of values beyond it: rounding matters where a normal's raw vector is nearly 0, or two classes tie


def require_onnx():
  """Raises UserError if the package is not installed."""
  try:
    import onnx  # noqa: F401
  except ImportError:
    raise UserError('--out: *.onnx needs the package onnx; run pip install onnx, or write *.stablehlo') from None


def build(predictor: Predictor, run: str) -> Any:
  """The `onnx.ModelProto` of a predictor; `run` names it in the metadata.

  Raises:
    UserError: the network has operations that are not converted, or is too large for one file.
  """
  import onnx

  network = Network(predictor)
  inputs = {'image': jax.ShapeDtypeStruct((*predictor.size, 3), jnp.uint8)}
  values = {}
  if network.noise is not None:
    inputs['noise'] = jax.ShapeDtypeStruct(network.noise.shape, network.noise.dtype)
    values['noise'] = network.noise
  converted = onnx_convert.convert(network.predict_one, inputs, 'image')
  constants = [*converted.initializers, *(onnx.numpy_helper.from_array(x, name) for name, x in values.items())]
  size = sum(len(x.raw_data) for x in constants)
  if size > MAX_BYTES - 2**24:
    raise UserError(f'--out: {size / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB; write *.stablehlo')
  shapes = jax.eval_shape(network.predict_one, **inputs)
  results = [name for name in network.result_names if name in shapes]
  renamed = [onnx.helper.make_node('Identity', [converted.outputs[name]], [name], name=name) for name in results]
  graph = onnx.helper.make_graph(
    [*converted.nodes, *renamed],
    'dmtl_jax',
    [_describe_value(name, x, batched=name == 'image') for name, x in inputs.items()],
    [_describe_value(name, shapes[name], batched=True) for name in results],
    constants,
    doc_string=__doc__,
  )
  model = onnx.helper.make_model(
    graph,
    opset_imports=[onnx.helper.make_opsetid('', onnx_graph.OPSET)],
    ir_version=onnx_graph.IR_VERSION,
    producer_name='dmtl_jax',
    producer_version=importlib.metadata.version('dmtl_jax'),
  )
  onnx.helper.set_model_props(model, metadata(predictor, run))
  onnx.checker.check_model(model, full_check=True)
  return model


class Network:
  """The network in float32, with the noise that `Predictor` gives each image."""

  def __init__(self, predictor: Predictor):
    self._predictor = predictor
    self._model = predictor.model.clone(dtype=jnp.float32)
    self._variables = jax.device_get(predictor.variables)
    self._inputs = model_inputs(
      self._model,
      jnp.zeros((1, *predictor.size, 3)),
      jax.random.key(predictor.seed),
      len(predictor.tasks),
      index=jnp.zeros(1, jnp.int32),
      diffusion_steps=predictor.diffusion_steps or None,
    )
    self.noise = np.asarray(self._inputs.pop('noise')) if self._model.draws_noise else None

  @property
  def result_names(self) -> list[str]:
    """Names of all results that a method can have, in the order of the file."""
    return [prefix + task.name for prefix in ('', 'initial/') for task in self._predictor.tasks]

  def predict_one(self, image: jax.Array, noise: jax.Array | None = None) -> dict[str, jax.Array]:
    """An image, uint8 [H, W, 3], to the results of the model, without the batch."""
    inputs = self._inputs | ({} if noise is None else {'noise': noise})
    with target.compiling_for('gpu'):  # plain convolutions: the faster ones of XLA on CPUs would be slower elsewhere
      output = self._model.apply(self._variables, normalize(image)[None], **inputs)
    chosen = self._predictor.calibration.choose(output.final, output.initial)
    stages = {'': chosen, 'initial/': output.initial}
    return {
      prefix + task.name: predict_map(task, maps[task.name], self._predictor.size, self._predictor.calibration)[0]
      for prefix, maps in stages.items()
      for task in self._predictor.tasks
      if maps
    }


def _describe_value(name: str, x: jax.ShapeDtypeStruct, batched: bool) -> Any:
  import onnx

  shape = (['batch'] if batched else []) + list(x.shape)
  return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype)), shape)


def metadata(predictor: Predictor, run: str) -> dict[str, str]:
  """What a program must know of the model: {key: text}, JSON where it is more than a word."""
  tasks = [_describe_task(task, predictor) for task in predictor.tasks]
  values = {
    'run': run,
    'step': predictor.step,
    'input': {'name': 'image', 'layout': 'batch, height, width, RGB', 'values': '0 to 255', 'size': predictor.size},
    'tasks': tasks,
    'dmtl_jax': importlib.metadata.version('dmtl_jax'),
    'jax': jax.__version__,
  }
  return {key: x if isinstance(x, str) else json.dumps(x) for key, x in values.items()}


def _describe_task(task: Task, predictor: Predictor) -> dict[str, Any]:
  described: dict[str, Any] = {'name': task.name, 'kind': task.kind}
  if task.classes:
    return described | {'values': 'class id', 'classes': task.classes}
  if task.binary:
    calibrated = task.name in predictor.calibration.tasks
    return described | {
      'values': f'{"calibrated" if calibrated else "uncalibrated"} probability, 0 to 1',
      'threshold': predictor.calibration.threshold(task),
    }
  kinds = {'normals': 'unit vector, -1 to 1', 'depth': "depth in the unit of the data set's labels, not bounded"}
  return described | {'values': kinds.get(task.kind, "value in the unit of the data set's labels, not bounded")}


class Difference(NamedTuple):
  """How far a file's results are from ours, of the result that is farthest.

  Attributes:
    largest: difference of a value, absolute below 1 and relative above; of class ids the share of pixels that differ.
    share: of values that differ by more than `TOLERANCE`, or of class ids that differ; NaN differs.
  """

  largest: float
  share: float


def compare(path: str, predictor: Predictor) -> Difference | None:
  """Runs the file on two images in onnxruntime and compares with the network here; None without onnxruntime."""
  try:
    import onnxruntime
  except ImportError:
    return None
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3  # a warning that noise is not a constant
  session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
  blocks = [-(-n // 8) for n in predictor.size]  # of one colour: with white noise maps are nearly constant
  small = np.random.default_rng(0).integers(0, 256, (2, *blocks, 3), np.uint8)
  images = small.repeat(8, 1).repeat(8, 2)[:, : predictor.size[0], : predictor.size[1]]
  names = [x.name for x in session.get_outputs()]
  results = dict(zip(names, session.run(names, {'image': images})))
  network = Network(predictor)
  with jax.default_matmul_precision('float32'):  # accelerators round more by default than onnxruntime on a CPU
    predict = jax.jit(network.predict_one)
    wanted = [predict(image, network.noise) for image in images]
  differences = [
    _compare_maps(np.asarray(want), results[name][i]) for i, x in enumerate(wanted) for name, want in x.items()
  ]
  return Difference(*np.max(differences, axis=0).tolist())


def _compare_maps(want: np.ndarray, got: np.ndarray) -> Difference:
  if want.dtype == np.uint8:
    share = (want != got).mean()
    return Difference(share, share)
  difference = np.abs(want - got) / np.maximum(1, np.abs(want))
  return Difference(difference.max(), (~(difference <= TOLERANCE)).mean())
