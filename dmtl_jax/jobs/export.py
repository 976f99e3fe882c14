"""A trained predictor as one file that runs without this project: StableHLO by `jax.export`.

  python -m dmtl_jax.jobs.export WORKDIR OUT.stablehlo

and anywhere that has jax and flatbuffers:

  import jax.export
  predict = jax.export.deserialize(bytearray(open('OUT.stablehlo', 'rb').read())).call
  maps = predict(images)  # uint8 [B, H, W, 3] RGB, any B -> {task: [B, H, W, ...]}

The file holds the weights. H and W are those of training (`deserialize(...).in_avals` names them);
maps are as `Task.activate` gives them: class ids, probabilities, unit normals, depth.
"""

import argparse
import pathlib
import sys

import jax
import jax.export
import jax.numpy as jnp

from dmtl_jax.basics import stopping, streams, target
from dmtl_jax.basics.atomic import atomic_open
from dmtl_jax.basics.errors import check_local, print_error, UserError
from dmtl_jax.data import transforms
from dmtl_jax.inference import prediction
from dmtl_jax.inference.steps import make_predict_step

SUFFIX = '.stablehlo'
PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(run: prediction.Predictor) -> jax.export.Exported:
  """The function uint8 [B, H, W, 3] RGB -> {task: final prediction at H x W}, for any B.

  Each image is predicted as `prediction.Predictor` does: its noise depends on config.seed alone,
  so that the rest of the batch changes nothing.
  """
  predict_step = make_predict_step(run.model, run.seed, run.diffusion_steps)
  variables = jax.device_get(run.variables)  # arrays on several devices would tie the file to their number

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
  images = jax.ShapeDtypeStruct((batch, *run.size, 3), jnp.uint8)
  # By vmap every shape inside is static, and an image knows nothing of the others.
  return jax.export.export(jax.jit(jax.vmap(predict)), platforms=PLATFORMS)(images)


def write(workdir: str, out: str, which: str = 'best') -> jax.export.Exported:
  """Exports a checkpoint ('best', 'latest' or a step) to the file `out`; raises UserError where that cannot be."""
  check_local('OUT', out)
  if not out.endswith(SUFFIX):  # so that no mistake overwrites a file of the run
    raise UserError(f'{out}: the name of an exported file ends in {SUFFIX}; write {out}{SUFFIX}')
  run = prediction.load(workdir, which)
  with (
    stopping.report_interruption(lambda: f'{out}, if it was there, is as it was', out),
    atomic_open(out, 'wb') as file,
  ):
    exported = export(run)  # after `out` was opened: a mistake shows before the work
    file.write(exported.serialize())
  return exported


def main(argv: list[str] | None = None) -> int:
  """The command above; returns the exit status."""
  streams.secure()
  parser = argparse.ArgumentParser(prog='python -m dmtl_jax.jobs.export', description=__doc__.split('\n\n')[0])
  parser.add_argument('workdir', metavar='WORKDIR', help='folder of a trained run')
  parser.add_argument('out', metavar='OUT', help='file to write')
  parser.add_argument('--step', default='best', help='checkpoint: best, latest or a number (default: %(default)s)')
  args = parser.parse_args(argv)
  try:
    exported = write(args.workdir, args.out, args.step)
  except UserError as error:
    print_error(error)
    return 1
  (images,) = exported.in_avals
  maps = jax.tree.unflatten(exported.out_tree, exported.out_avals)
  print(f'{args.out}: {pathlib.Path(args.out).stat().st_size / 1e6:.1f} MB for {", ".join(exported.platforms)}')
  print(f'  in:  {images.str_short()}')
  print('  out: ' + ', '.join(f'{name} {x.str_short()}' for name, x in maps.items()))
  return 0


if __name__ == '__main__':
  sys.exit(main())
