"""The job `--mode=export`: a trained predictor as one file that runs without this project.

*.onnx, for any runtime of ONNX: see `inference.onnx_file`. *.stablehlo, by `jax.export`, anywhere that has jax and
flatbuffers:

  import jax.export
  predict = jax.export.deserialize(bytearray(open('model.stablehlo', 'rb').read())).call
  maps = predict(images)  # uint8 [B, H, W, 3] RGB, any B -> {task: [B, H, W, ...]}

The file holds the weights. H and W are those of training (`deserialize(...).in_avals` names them);
maps are as `Task.activate` gives them: class ids, calibrated probabilities, unit normals, depth. JAX promises to read
such a file in versions that are released up to six months after the one that wrote it.
"""

import datetime
import os
import pathlib

import jax
import jax.export
import jax.numpy as jnp

from dmtl_jax.basics import stopping, target
from dmtl_jax.basics.atomic import atomic_path
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.inference import onnx_file, prediction
from dmtl_jax.inference.forward import make_predict_fn
from dmtl_jax.models.inputs import normalize
from dmtl_jax.runs import hub

SUFFIXES = ('.stablehlo', '.onnx')
PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(predictor: prediction.Predictor) -> jax.export.Exported:
  """The function uint8 [B, H, W, 3] RGB -> {task: final prediction at H x W}, for any B.

  Each image is predicted as `prediction.Predictor` does: its noise depends on config.seed alone,
  so that the rest of the batch changes nothing.
  """
  predict_step = make_predict_fn(
    predictor.model, predictor.seed, predictor.diffusion_steps, calibration=predictor.calibration
  )
  variables = jax.device_get(predictor.variables)  # arrays on several devices would tie the file to their number

  def predict(image):
    maps = jax.lax.platform_dependent(normalize(image)[None], cpu=on('cpu'), default=on('gpu'))
    return {name: x[0] for name, x in maps.items()}

  def on(platform: str):  # the convolutions that suit it; the file holds the weights once
    def predict_on(images):
      with target.compiling_for(platform):
        return predict_step(variables, images, jnp.zeros(1, jnp.int32))['final']

    return predict_on

  (batch,) = jax.export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, *predictor.size, 3), jnp.uint8)
  # By vmap every shape inside is static, and an image knows nothing of the others.
  return jax.export.export(jax.jit(jax.vmap(predict)), platforms=PLATFORMS)(images)


def run(workdir: str, step: str, out: str):
  """Exports a checkpoint ('best', 'latest' or a step) to the file `out`, and prints what the file takes and gives.

  Raises:
    UserError: the suffix of `out` is none of `SUFFIXES`, a package is missing, or the file cannot be written.
  """
  suffix = pathlib.Path(out).suffix
  if suffix not in SUFFIXES:  # so that no mistake overwrites a file of the run
    stem = out.removesuffix(suffix)
    raise UserError(f'--out={out}: the name of an exported file ends in {" or ".join(SUFFIXES)}; write {stem}.onnx')
  if suffix == '.onnx':
    onnx_file.require_onnx()
  predictor = prediction.load(workdir, step)
  with (
    stopping.report_interruption(lambda: f'{out}, if it was there, is as it was', out),
    atomic_path(out) as temporary,
  ):
    # After `out` was opened, so that a path that cannot be written shows before the work.
    lines = _write_onnx(predictor, workdir, temporary) if suffix == '.onnx' else _write_stablehlo(predictor, temporary)
  say(f'{out}: {os.path.getsize(out) / 1e6:.1f} MB{lines[0]}')
  for line in lines[1:]:
    say(f'  {line}')


def _write_stablehlo(predictor: prediction.Predictor, path: str) -> list[str]:
  """Writes the file; returns the end of the first line to print, and further lines."""
  exported = export(predictor)
  pathlib.Path(path).write_bytes(exported.serialize())
  (images,) = exported.in_avals
  maps = jax.tree.unflatten(exported.out_tree, exported.out_avals)
  latest = datetime.date.today() + datetime.timedelta(days=182)
  return [
    f' for {", ".join(exported.platforms)}',
    f'in:  {images.str_short()}',
    'out: ' + ', '.join(f'{name} {x.str_short()}' for name, x in maps.items()),
    f'JAX promises to read it only in versions released within six months after {jax.__version__}, by {latest} at the '
    f'latest; keep the run, to export it again, or write *.onnx',
  ]


def _write_onnx(predictor: prediction.Predictor, workdir: str, path: str) -> list[str]:
  """As `_write_stablehlo`; compares the file with the predictor where onnxruntime is installed."""
  model = onnx_file.build(predictor, hub.public_name(workdir))
  pathlib.Path(path).write_bytes(model.SerializeToString())
  difference = onnx_file.compare(path, predictor)
  if difference is None:
    check = 'not run: onnxruntime is not installed (pip install onnxruntime)'
  elif difference.share <= onnx_file.MAX_SHARE:
    check = f'run in onnxruntime: differs from the predictor here by at most {difference.largest:.1e}'
  else:
    raise UserError(
      f'--out: not written, since {difference.share:.1%} of the values of a map differ in onnxruntime from those here; '
      'write *.stablehlo, and report this'
    )
  sides = [
    (name, [_describe(x) for x in values]) for name, values in (('in', model.graph.input), ('out', model.graph.output))
  ]
  return [' for ONNX runtimes', *(f'{name + ":":4} {", ".join(values)}' for name, values in sides), check]


def _describe(value) -> str:
  """'image uint8[batch,96,128,3]'."""
  import onnx

  kind = value.type.tensor_type
  shape = ','.join(n.dim_param or str(n.dim_value) for n in kind.shape.dim)
  return f'{value.name} {onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)}[{shape}]'
