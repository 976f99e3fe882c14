"""The exported file in a process that cannot import this project, against the Python API."""

import os
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest

from dmtl_jax.basics import target
from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import calibration, prediction
from dmtl_jax.jobs import export
from dmtl_jax.models.parts import winograd
from tests import calibrations
from tests.tiny import random_variables, SIZE, TASKS, Tiny

pytestmark = pytest.mark.usefixtures('short_encoder')

# What README tells users, in a process where importing the project or its network library fails.
ALONE = """
import sys
for name in ('dmtl_jax', 'flax', 'orbax'):
  sys.modules[name] = None
import numpy as np
import jax.export
predict = jax.export.deserialize(bytearray(open(sys.argv[1], 'rb').read())).call
images = np.load(sys.argv[2])
np.savez(sys.argv[3], **predict(images))
one = predict(images[1:2])
assert all(x.shape[0] == 1 for x in one.values())
np.savez(sys.argv[4], **one)
"""


@pytest.fixture(scope='module')
def images():
  """Three images with low frequencies, so that their maps differ."""
  small = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
  return small.repeat(8, 1).repeat(8, 2)


def agrees(task, got, want):
  """Same maps but for rounding: of class ids, all but a few pixels near ties."""
  assert got.dtype == want.dtype
  assert got.shape == want.shape
  if task.kind in ('semseg', 'parsing'):
    assert (got == want).mean() > 0.995, task.name
    assert len(np.unique(want)) > 1, f'{task.name}: a constant map proves nothing'
  else:
    np.testing.assert_allclose(got, want, atol=2e-4, err_msg=task.name)
    assert want.std() > 1e-3, f'{task.name}: a constant map proves nothing'


def test_the_file_predicts_without_this_project(tiny_run, images, tmp_path, capsys):
  out = tmp_path / 'new' / 'model.stablehlo'
  calibration.write(tiny_run, calibrations.calibration(TASKS))
  export.run(str(tiny_run), 'best', str(out))
  printed = capsys.readouterr().out
  for words in ('cpu, cuda, tpu', 'six months after', 'uint8[batch,64,96,3]', 'normals float32[batch,64,96,3]'):
    assert words in printed
  assert os.listdir(out.parent) == [out.name], 'left a temporary file'

  np.save(tmp_path / 'images.npy', images)
  files = [str(tmp_path / name) for name in ('images.npy', 'three.npz', 'one.npz')]
  command = [sys.executable, '-c', ALONE, str(out), *files]
  subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | {'PYTHONPATH': ''})

  predictor, three, one = prediction.load(str(tiny_run)), np.load(files[1]), np.load(files[2])
  assert predictor.calibration.tasks
  assert set(three) == {task.name for task in TASKS}
  for i, image in enumerate(images):
    want = predictor(image)
    for task in TASKS:
      agrees(task, three[task.name][i], want[task.name])
      if i == 1:  # alone in its batch as among others
        agrees(task, one[task.name][0], three[task.name][1])


@pytest.mark.parametrize('arg', ['method=feature,preset=released', 'method=mtl_baseline'])
def test_other_methods(arg, images, monkeypatch):
  tiny = Tiny(arg, tasks=(TASKS[0], TASKS[3]))
  tiny.config.data.size = SIZE
  variables = random_variables(tiny.model, seed=2)
  asked = set()
  monkeypatch.setattr(winograd, 'is_faster', lambda *_: asked.add(target.platform()))
  predictor = prediction.Predictor(tiny.model, variables, tiny.config.data.size, tiny.config.eval, 0)
  exported = export.export(predictor)
  assert asked == {'cpu', 'gpu'}, 'each platform has its own convolutions in the file'
  got = jax.device_get(exported.call(images[:1]))
  want = predictor(images[0])
  for task in tiny.tasks:
    agrees(task, got[task.name][0], want[task.name])


def test_what_cannot_be_exported(tiny_run, tmp_path):
  (tmp_path / 'file').write_text('')
  run = str(tiny_run)
  for workdir, step, out, message in [
    (str(tmp_path / 'none'), 'best', 'x.stablehlo', 'must name the folder of a trained run'),
    (run, '3', 'x.stablehlo', '--step=3: not one of best, latest, 7'),
    (run, 'best', str(tmp_path / 'file' / 'x.stablehlo'), 'fix that and run the same command again'),
    (
      run,
      'best',
      f'{run}/config.json',
      'config.json: the name of an exported file ends in .stablehlo or .onnx; write .*config.onnx',
    ),
  ]:
    with pytest.raises(UserError, match=message):
      export.run(workdir, step, out)
