"""Publishing a run on a server of this machine, and the modes that read it there."""

import json
import pathlib
import shutil
import sys

import huggingface_hub
import jax
import numpy as np
import pytest

import dmtl_jax
from dmtl_jax import cli
from dmtl_jax.basics import atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import folder as folder_config
from dmtl_jax.data.source import data_tasks
from dmtl_jax.inference import calibration, prediction
from dmtl_jax.jobs import convert, publish
from dmtl_jax.models import build_model
from dmtl_jax.report import card
from dmtl_jax.runs import hub
from dmtl_jax.runs import workdir as workdir_lib
from tests import calibrations, toy
from tests.hub_server import Repo, TOKEN
from tests.tiny import random_variables, SIZE

pytestmark = pytest.mark.usefixtures('short_encoder')
TASKS = ('semseg', 'saliency', 'depth')
SCORES = {
  'initial': {'semseg': {'mIoU': 40.0}, 'saliency': {'maxF': 60.25}, 'depth': {'absErr': 0.5}},
  'final': {'semseg': {'mIoU': 42.5}, 'saliency': {'maxF': 61.0}, 'depth': {'absErr': None}},
}


@pytest.fixture(scope='module')
def run(tmp_path_factory, short_encoder):
  """A run on a folder of images, with random weights and scores written by hand."""
  root = tmp_path_factory.mktemp('data') / 'photos'
  toy.write(root, 2, 2)
  config = folder_config.get_config('labels=full,method=mtl_baseline')
  config.data.update(path=str(root), dir=str(root.parent / 'prepared'), tasks=TASKS, size=SIZE)
  config.model.update(width=8, channels=16, depth=1, decoder_blocks=1)
  config.eval.update(batch=2, panels=1)
  config.init_from = str(root.parent / 'encoder.safetensors')
  tasks = data_tasks(config.data)
  variables = jax.tree.map(np.float32, random_variables(build_model(config, tasks), seed=2))
  workdir = convert.write_run(tmp_path_factory.mktemp('runs') / 'mine', config, tasks, variables, 7)
  scores = {'protocol': 'plain', 'resolution': 'input', 'weights': 'best', 'step': 7, **SCORES}
  atomic.write_json(workdir / 'metrics.json', scores)
  atomic.write_json(workdir / 'metrics_4.json', scores)
  atomic.write_json(workdir / 'metrics_5.json', scores | {'step': 3})
  atomic.write_json(workdir / 'labels.json', {'private_name': ['semseg']})
  calibration.write(workdir, calibrations.calibration(tasks, diffusion_steps=0))
  (workdir / 'panels').mkdir()
  (workdir / 'panels' / 'val00.png').write_bytes(b'a picture')
  image = {'id': 'val00', 'input': 'val00/input.jpg', 'tasks': {}}
  atomic.write_json(workdir / 'panels' / 'index.json', {'images': [image]})
  return workdir


@pytest.fixture
def login(hub_server, monkeypatch):
  monkeypatch.setenv('HF_TOKEN', TOKEN)
  return hub_server


def test_what_is_loaded_is_what_convert_makes(run, login, capsys):
  """Maps are a function of the network, its variables, calibration and seed."""
  url = dmtl_jax.publish(run, 'me/mine', 'cc-by-4.0')
  lines = capsys.readouterr().out.splitlines()
  assert lines[-1] == url == f'{login.url}/me/mine'
  assert lines[0] == 'to hf://me/mine, public unless it is private there already, license cc-by-4.0:'
  assert any(line.endswith(' MB  checkpoints/7') for line in lines)
  names = login.repos['me/mine'].files.keys()
  assert {name for name in names if not name.startswith('checkpoints/7/')} == {
    *('.gitattributes', 'README.md', 'config.json', 'tasks.json', 'metrics.json', 'metrics_4.json'),
    *('calibration.json', 'panel.png'),
  }
  config, tasks = workdir_lib.read_config(run), workdir_lib.read_tasks(run)
  variables, step = convert.light_variables(run, config, tasks, 'best')
  loaded = prediction.load('hf://me/mine')
  jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
  assert (loaded.tasks, loaded.step, loaded.config.seed) == (tasks, step, config.seed)
  assert loaded.calibration == calibration.read(run)
  assert TOKEN not in capsys.readouterr().out


def test_nothing_of_this_machine_is_published(run, tmp_path):
  publish.write(run, tmp_path / 'out', 'me/mine', 'mit', 'best')
  config = workdir_lib.read_config(tmp_path / 'out')
  assert (config.data.path, config.data.dir, config.init_from) == ('photos', 'runs/data', 'encoder.safetensors')
  parts = [part.encode() for path in (run, tmp_path, pathlib.Path.home()) for part in (str(path), str(path.parent))]
  for path in (tmp_path / 'out').rglob('*'):
    if path.is_file():
      assert not [part for part in parts if part != b'/' and part in path.read_bytes()], path
      assert b'private_name' not in path.read_bytes()


def test_sources_on_the_hub_stay_in_the_config(run):
  config = workdir_lib.read_config(run)
  for source in ('timm/resnet18.tv_in1k', f'hf://me/run@{"a" * 40}'):
    config.init_from = source
    assert publish.without_paths(config).init_from == source


def test_the_card(run, tmp_path):
  publish.write(run, tmp_path / 'out', 'me/mine', 'cc-by-4.0', 'best')
  text = (tmp_path / 'out' / 'README.md').read_text()
  data = huggingface_hub.ModelCard(text).data
  assert (data.license, data.library_name, data.pipeline_tag) == ('cc-by-4.0', 'dmtl_jax', 'image-segmentation')
  assert {(r.task_name, r.metric_type, r.metric_value) for r in data.eval_results} == {
    ('semseg', 'mIoU', 42.5),
    ('saliency', 'maxF', 61.0),
  }
  assert '| semseg, mIoU (higher is better) | 40.00 | **42.50** |' in text
  assert 'predicts semseg, saliency and depth for every pixel' in text
  assert '| semseg | classes | wall, floor, box |' in text
  assert "dmtl_jax.load('hf://me/mine')" in text
  assert '(panel.png)' in text
  assert 'Scored under protocol plain' in text
  assert card.escape('a|b <b>*c*</b>') == r'a\|b \<b\>\*c\*\</b\>'


def test_the_card_has_the_scores_of_the_maps_that_predictions_are_made_of(run, tmp_path):
  copy = shutil.copytree(run, tmp_path / 'run')
  chosen = calibration.Calibration(7, 0, {}, ('saliency', 'depth'))  # the choice is published without a fit, too
  calibration.write(copy, chosen)
  publish.write(copy, tmp_path / 'out', 'me/mine', 'mit', 'best')
  text = (tmp_path / 'out' / 'README.md').read_text()
  results = huggingface_hub.ModelCard(text).data.eval_results
  assert {(r.task_name, r.metric_name, r.metric_value) for r in results} == {
    ('semseg', None, 42.5),
    ('saliency', 'maxF of the initial maps', 60.25),
    ('depth', 'absErr of the initial maps', 0.5),
  }
  assert '| semseg, mIoU (higher is better) | 40.00 | **42.50** |' in text
  assert '| saliency, maxF (higher is better) | **60.25** | 61.00 |' in text
  assert '| depth, absErr (lower is better) | **0.5000** | - |' in text
  assert 'Probabilities are not calibrated' in text
  assert calibration.read(tmp_path / 'out') == chosen


def test_scores_of_other_weights_are_refused(run, tmp_path):
  metrics = run / 'metrics.json'
  before = metrics.read_text()
  atomic.write_json(metrics, json.loads(before) | {'step': 3})
  try:
    with pytest.raises(UserError, match='scores of step 3, but the weights are of step 7; --step=3 publishes those'):
      publish.write(run, tmp_path / 'out', 'me/mine', 'mit', 'best')
  finally:
    metrics.write_text(before)


def test_a_run_without_scores_has_a_card_that_says_so(tiny_run, tmp_path):
  publish.write(tiny_run, tmp_path / 'out', 'me/mine', 'mit', 'best')
  text = (tmp_path / 'out' / 'README.md').read_text()
  assert 'published without an evaluation' in text
  assert 'Probabilities are not calibrated' in text
  assert not (tmp_path / 'out' / 'panel.png').exists()


@pytest.mark.parametrize(
  'to, license, sentence',
  [
    ('me/mine', None, '--license: say what others may do with the weights: apache-2.0, mit'),
    ('me/mine', 'My License!', "'My License!' is not a license"),
    ('mine', 'mit', 'not an address on the Hub'),
    ('me/mine@v1', 'mit', 'write --to=me/mine'),
  ],
)
def test_what_is_refused_before_the_hub_is_asked(run, hub_server, to, license, sentence):
  with pytest.raises(UserError, match=sentence):
    publish.run(str(run), to, license)
  assert hub_server.requests == []


def test_who_may_publish(hub_server, tmp_path, monkeypatch):
  def refuse(sentence: str, repo: str = 'me/mine', private: bool = False):
    with pytest.raises(UserError, match=sentence) as caught:
      hub.upload(tmp_path, repo, private, 'a run')
    assert 'hf_' not in str(caught.value)

  refuse('hf://me/mine: .*log in with `hf auth login`')
  monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
  refuse('does not accept the token')
  monkeypatch.setenv('HF_TOKEN', TOKEN)
  refuse('the token has no right to write it', 'you/mine')
  hub_server.repos['me/other'] = Repo({'pytorch_model.bin': b'x', 'config.json': b'{}'})
  refuse('holds something else than a run', 'me/other')
  hub_server.repos['me/open'] = Repo()
  refuse('--private: me/open is public already', 'me/open', private=True)
  assert len(hub_server.repos['me/open'].commits) == 1
  hub_server.stop()
  refuse('the connection to .* failed')


def test_a_second_time_is_one_commit_more_without_the_files_of_the_first(run, login):
  old = {'config.json': b'', 'tasks.json': b'', 'checkpoints/9/variables/d/aa': b'', 'notes.txt': b'theirs'}
  login.repos['me/mine'] = Repo(old)
  publish.run(str(run), 'me/mine', 'mit')
  assert len(login.repos['me/mine'].commits) == 2
  files = login.repos['me/mine'].files
  assert not [name for name in files if name.startswith('checkpoints/9')]
  assert files['notes.txt'] == b'theirs'
  assert files['config.json']
  publish.run(str(run), 'me/new', 'mit', private=True)
  assert login.repos['me/new'].private


def test_commands_on_a_run_of_the_hub(run, login, tmp_path, monkeypatch, fresh_flags, capsys):
  """Scores go to a folder of their own, with the commit; the cache stays as it is."""
  publish.run(str(run), 'me/mine', 'mit')
  folder = hub.download_run('hf://me/mine')
  before = sorted(folder.rglob('*'))
  monkeypatch.chdir(tmp_path)
  data = str(pathlib.Path(workdir_lib.read_config(run).data.path))

  def main(*args) -> str:
    monkeypatch.setattr(sys, 'argv', ['main.py', *args])
    fresh_flags()
    capsys.readouterr()
    status = cli.main(sys.argv)
    out, err = capsys.readouterr()
    return err if status else out

  main('--mode=evaluate', '--workdir=hf://me/mine', f'--config.data.path={data}')
  metrics = json.loads((tmp_path / 'runs/me--mine/metrics.json').read_text())
  assert metrics['run'] == f'hf://me/mine@{login.repos["me/mine"].head}'
  assert list((tmp_path / 'runs/me--mine/panels').glob('*.png'))
  text = main('--mode=report', '--workdirs=runs/me--mine,hf://me/mine', f'--out={tmp_path / "report"}')
  assert f'{metrics["final"]["semseg"]["mIoU"]:.2f}' in text
  assert '42.50' in text
  labels = ['--mode=predict', '--save=labels', f'--images={data}/val/images', '--out=labels', '--confidence=0']
  main('--workdir=hf://me/mine', *labels)
  assert metrics['run'] in (tmp_path / 'labels/source.json').read_text()
  assert sorted(folder.rglob('*')) == before
  main('--mode=convert', '--checkpoint=hf://me/mine', '--workdir=copy')
  assert workdir_lib.read_tasks('copy') == workdir_lib.read_tasks(run)
  assert 'only read' in main('--config=scenes', '--workdir=hf://me/mine')
  assert 'only read' in main('--mode=publish', '--workdir=hf://me/mine', '--to=me/copy', '--license=mit')
  assert 'another run is there' in main(
    *('--mode=evaluate', '--workdir=hf://me/mine', f'--config.data.path={data}', '--out=copy')
  )
