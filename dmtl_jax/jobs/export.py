"""The job `--mode=export`: a trained predictor as one file that runs without this project, StableHLO by `jax.export`.

Anywhere that has jax and flatbuffers:

  import jax.export
  predict = jax.export.deserialize(bytearray(open('model.stablehlo', 'rb').read())).call
  maps = predict(images)  # uint8 [B, H, W, 3] RGB, any B -> {task: [B, H, W, ...]}

The file holds the weights. H and W are those of training (`deserialize(...).in_avals` names them);
maps are as `Task.activate` gives them: class ids, calibrated probabilities, unit normals, depth.
"""

import pathlib

import jax
import jax.export
import jax.numpy as jnp

from dmtl_jax.basics import stopping, target
from dmtl_jax.basics.atomic import atomic_open
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.data import transforms
from dmtl_jax.inference import prediction
from dmtl_jax.inference.forward import make_predict_fn

SUFFIX = '.stablehlo'
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
    normalized = (image / jnp.float32(255) - transforms.MEAN) / transforms.STD
    maps = jax.lax.platform_dependent(normalized[None], cpu=on('cpu'), default=on('gpu'))
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


def write(workdir: str, step: str, out: str) -> jax.export.Exported:
  """Exports a checkpoint ('best', 'latest' or a step) to the file `out`; raises UserError where that cannot be."""
  if not out.endswith(SUFFIX):  # so that no mistake overwrites a file of the run
    raise UserError(f'{out}: the name of an exported file ends in {SUFFIX}; write {out}{SUFFIX}')
  predictor = prediction.load(workdir, step)
  with (
    stopping.report_interruption(lambda: f'{out}, if it was there, is as it was', out),
    atomic_open(out, 'wb') as file,
  ):
    # After `out` was opened, so that a path that cannot be written shows before the work.
    exported = export(predictor)
    file.write(exported.serialize())
  return exported


def run(workdir: str, step: str, out: str):
  """The job `--mode=export`: see `write`; prints what the file takes and gives."""
  exported = write(workdir, step, out)
  (images,) = exported.in_avals
  maps = jax.tree.unflatten(exported.out_tree, exported.out_avals)
  say(f'{out}: {pathlib.Path(out).stat().st_size / 1e6:.1f} MB for {", ".join(exported.platforms)}')
  say(f'  in:  {images.str_short()}')
  say('  out: ' + ', '.join(f'{name} {x.str_short()}' for name, x in maps.items()))
