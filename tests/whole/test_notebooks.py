"""The notebooks run top to bottom: in this process, with few steps of a tiny network, one after the other on the same run."""

import json
import pathlib

import pytest

import dmtl_jax
from tests.tiny import SIZE

COLABS = pathlib.Path(__file__).resolve().parents[2] / 'colabs'
# Of the cell that is tagged `parameters`; in float32 one compiled step serves two notebooks.
SETTINGS = {'RUN': 'runs/quickstart', 'STEPS': 2, 'IMAGES': 8, 'BATCH': 4, 'DTYPE': 'float32'}
RUNS = {'train_on_tpu': 'runs/tpu', 'your_own_images': 'runs/mine'}


@pytest.fixture(scope='module')
def place(tmp_path_factory, short_encoder):
  """A folder that the notebooks run in, with tiny configs."""

  get_config = dmtl_jax.get_config

  def tiny_config(name, **fields):
    config = get_config(name, **fields)
    with config.unlocked():
      config.model.update(width=8, channels=24, depth=1, decoder_blocks=1)
      config.data.update(size=SIZE, tasks=('semseg', 'depth'), train_count=8, val_count=4)
      config.eval.workers = 0
    return config

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(dmtl_jax, 'get_config', tiny_config)
    patch.chdir(tmp_path_factory.mktemp('colabs'))
    yield


@pytest.mark.parametrize(
  'name', ['quickstart', 'evaluate_a_checkpoint', 'inside_the_denoiser', 'train_on_tpu', 'your_own_images']
)
def test_a_notebook_runs(place, name):
  known = {'__name__': '__main__', 'display': lambda value: None}
  for number, cell in enumerate(json.loads((COLABS / f'{name}.ipynb').read_text())['cells']):
    if cell['cell_type'] == 'code':
      exec(compile(''.join(cell['source']), f'{name}.ipynb, cell {number}', 'exec'), known)
      if 'parameters' in cell['metadata'].get('tags', ()):
        settings = SETTINGS | {'RUN': RUNS.get(name, SETTINGS['RUN'])}
        known |= {key: value for key, value in settings.items() if key in known or key == 'RUN'}
  assert pathlib.Path(known['RUN'], 'metrics.json').is_file()
