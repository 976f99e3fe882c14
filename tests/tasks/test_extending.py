"""docs/extending.md: a kind of task in one file from outside goes through every job."""

import json

import cv2
import numpy as np

from dmtl_jax.configs import folder
from dmtl_jax.jobs import predict, report, train
from tests import albedo  # noqa: F401  a kind is known once its file is imported

SIZE = (16, 24)


def write_data(root):
  """Pictures of two flat colours, whose albedo is the colour itself, without shading."""
  rng = np.random.default_rng(0)
  for split in ('train', 'val'):
    for place in ('images', 'labels/albedo'):
      (root / split / place).mkdir(parents=True)
    for i in range(4):
      colors = rng.integers(60, 255, (2, 3))
      flat = colors[(np.arange(SIZE[1]) > 12).astype(int)][None].repeat(SIZE[0], 0).astype(np.uint8)
      shade = np.linspace(0.5, 1, SIZE[0])[:, None, None]
      cv2.imwrite(str(root / split / 'images' / f'{i}.png'), (flat * shade).astype(np.uint8)[..., ::-1])
      cv2.imwrite(str(root / split / 'labels/albedo' / f'{i}.png'), flat[..., ::-1])
  (root / 'dataset.json').write_text(json.dumps({'tasks': {'albedo': {}}}))


def test_a_kind_from_outside_trains_evaluates_predicts_and_reports(tmp_path, short_encoder):
  write_data(tmp_path / 'data')
  config = folder.get_config('method=mtl_baseline')
  config.data.path, config.data.size = str(tmp_path / 'data'), SIZE
  config.model.update(width=8, channels=8, depth=1, decoder_blocks=1)
  config.train.batch, config.train.steps, config.eval.batch, config.eval.panels = 2, 2, 2, 1
  workdir = tmp_path / 'run'
  result = train.run(config, str(workdir))
  assert 0 < result['final']['albedo']['MAE'] < 2
  assert (workdir / 'panels/0.png').exists()
  assert (workdir / 'panels/0/albedo_final.png').exists()

  images = str(tmp_path / 'data/val/images/0.png')
  assert predict.run(str(workdir), 'latest', images, str(tmp_path / 'out')) == 0
  saved = np.load(tmp_path / 'out/albedo/0.npy')
  assert saved.shape == (*SIZE, 3)
  assert saved.dtype == np.float32

  report.run([str(workdir)], str(tmp_path / 'report'))
  assert 'albedo' in (tmp_path / 'report/report.md').read_text()
