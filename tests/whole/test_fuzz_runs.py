"""Archives, weights, command lines and workdirs from elsewhere, mutated; see test_fuzz.py."""

import itertools
import json
import os
import pathlib
import sys
import tarfile
import zipfile

from flax.traverse_util import flatten_dict
from hypothesis import strategies as st
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from dmtl_jax import cli
from dmtl_jax.basics import download
from dmtl_jax.configs import common
from dmtl_jax.inference import gallery, images
from dmtl_jax.jobs import report
from dmtl_jax.runs import checkpoints, pretrained, workdir
from tests import fuzzing
from tests.archives import file, link, tar, zipped
from tests.conftest import TASKS
from tests.whole.test_fuzz import encoded, IMAGES, pattern, run, Silent

ROOT = pathlib.Path(__file__).resolve().parents[2]


# --- Archives --------------------------------------------------------------------------------

NAMES = st.one_of(
    st.sampled_from(['a', 'a/b', './a', 'a/', '/', '', '.', '..', '../x', 'a/../../x', '/tmp/dmtl_evil', 'C:\\x', '..\\x', 'a//b',
                     'x' * 300, 'd/' * 12 + 'x', 'a\n', '\x1b[2J', '\udcff', 'link', 'link/x']),
    st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=4),
)  # fmt: skip
TYPES = (tarfile.REGTYPE,) * 4 + (
    tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE,
    tarfile.GNUTYPE_SPARSE,
)  # fmt: skip
members = st.lists(
  st.tuples(NAMES, st.sampled_from(TYPES), NAMES, st.integers(0, 0o7777), st.binary(max_size=9)), min_size=1, max_size=5
)


PLAIN = [file('top/one.txt', b'1' * 600), link('top/link', 'one.txt'), file('top/deep/two.txt', b'22')]


@pytest.mark.filterwarnings('ignore')
def test_archives(tmp_path, monkeypatch):
  monkeypatch.setattr(download, 'Progress', Silent)
  counter = itertools.count()
  seeds = [tar(PLAIN, mode) for mode in ('w', 'w:gz', 'w:bz2', 'w:xz')]
  seeds += [zipped(PLAIN[::2], method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)]
  inputs = st.one_of(members.map(lambda m: tar(m, 'w')), members.map(zipped), fuzzing.files(*seeds), members.map(tar))

  def check(data):
    folder = tmp_path / str(next(counter))
    folder.mkdir()
    path = folder / 'archive'
    path.write_bytes(data)

    def read(_):
      download.extract(path, folder / 'out')
      for found in (folder / 'out').rglob('*'):
        assert os.path.realpath(found).startswith(f'{folder}/out'), found

    return fuzzing.told(read, path)

  run(100, inputs, check)


# --- Weights ---------------------------------------------------------------------------------


def test_safetensors(tmp_path):
  state = {'conv.weight': np.ones((2, 3), np.float32), 'module.conv.bias': np.zeros(2, np.float16)}
  views = lambda: {'conv.weight': [np.zeros((2, 3), np.float32)], 'conv.bias': [np.zeros(2, np.float32)]}
  path = tmp_path / 'model.safetensors'
  whole = safetensors.numpy.save(state)
  length = int.from_bytes(whole[:8], 'little')
  header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]

  def assembled(tree) -> bytes:
    text = json.dumps(tree).encode()
    return len(text).to_bytes(8, 'little') + text + body

  def check(data):
    path.write_bytes(data)
    return fuzzing.told(lambda path: pretrained.fill(views(), pretrained.read_state(path), path), path)

  run(60, st.one_of(fuzzing.files(whole), fuzzing.trees(header).map(assembled)), check)


# --- The command line ------------------------------------------------------------------------

FIELDS = list(flatten_dict(common.base(None).to_dict(), sep='.')) + [
    'x', '.', '..', 'optim..lr', 'optim.', 'optm.lr', '__class__', 'model.__class__.x', 'data.size[0]', 'data.size[9]', 'a[b]',
    'optim.lr.x', 'keys', 'items', 'loss_weights.semseg', 'data.path', 'size(', 'é', 'data', 'model', '',
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(['1', '-1', '0', '', '1e999', 'nan', '(1,2)', '(1', '[1,2]', '{}', '{"a":1}', 'None', 'True', '9' * 5000,
                     '-' * 3000 + '1', '(' * 3000, '\0', '\ud800', '\n', '../x', "(1.5,'a')", '1_0', '[[[[', '1+1j', '9**9**9',
                     '__import__("os").system("touch evil")', 'lambda: 0', '(64, 96)', '0.5', 'xtc']),
    st.text(max_size=6),
)  # fmt: skip
PARTS = st.one_of(
    st.sampled_from(['method=feature', 'method=', 'steps=3', 'steps=-1', 'steps=' + '9' * 5000, 'labels=\0', '=', 'a=b', ',,',
                     'preset=released', 'method==', 'condition=concat', 'steps=１', '\ud800', 'x' * 5000, 'labels=a:b']),
    st.text(max_size=6),
)  # fmt: skip
CONFIGS = st.sampled_from(
  ['configs/scenes.py'] * 4
  + ['configs/folder.py'] * 3
  + ['configs/nope.py', 'configs', '/etc/passwd', '', 'README.md', 'x\0', 'x' * 5000]
)


def test_config_strings():
  def check(arg):
    try:
      assert set(common.parse(arg)) == set(common.ARGUMENTS)
      return True
    except ValueError as error:
      assert len(str(error)) < 500 and str(error).startswith('config string: ') and '\n' not in str(error)
      return False

  run(150, st.lists(PARTS, max_size=3).map(','.join), check)


def test_command_lines(tmp_path, monkeypatch, fresh_flags):
  monkeypatch.chdir(ROOT)
  override = st.builds(lambda field, value: f'--config.{field}={value}', st.sampled_from(FIELDS), VALUES)
  other = st.sampled_from(
    [
      '--workdir',
      '--mode=x',
      '--noconfig.seed',
      '--config.train.remat',
      '-x',
      'x',
      '--',
      '--flagfile=nope',
      '--force=x',
    ]
  )
  argvs = st.builds(
      lambda path, parts, rest: [
        'main.py', '--workdir=x', f'--config={path}' + (':' + ','.join(parts) if parts else ''), *rest],
      CONFIGS, st.lists(PARTS, max_size=1), st.lists(st.one_of(override, override, override, other), max_size=2),
  )  # fmt: skip

  def check(argv):
    monkeypatch.setattr(sys, 'argv', argv)
    fresh_flags()
    return fuzzing.told(lambda _: cli._parse(argv), tmp_path / 'x', '')

  run(60, argvs, check)


# --- Workdirs --------------------------------------------------------------------------------

INDEX = {'images': [{'id': 'a', 'index': 0, 'input': 'a/input.jpg', 'tasks': {
    'depth': {'why': ['panel', 'best'], 'scores': {'initial': 1.0, 'final': 0.5}, 'limits': [1.0, 4.0],
              'files': {'label': 'a/depth_label.png', 'initial': 'a/depth_initial.png', 'final': 'a/depth_final.png'}}}}]}  # fmt: skip
METRICS = (
  {'step': 20, 'delta_m': None, 'seconds_per_image': 0.1}
  | {stage: {task.name: {task.metric: 0.5} for task in TASKS} for stage in ('initial', 'final')}
  | {'per_class': {'semseg': {'sky': 1.0, 'road': None}}}
)
LOG = [{'step': step, 'loss/total': 3.0 / step, 'loss/final/depth': 1.0} for step in (1, 2, 3)]


def write_run(path: pathlib.Path) -> dict[str, object]:
  """A run without its checkpoints: what JSON files it holds."""
  config = common.base('method=mtl_baseline')
  config.data.name, config.model.width, config.model.channels, config.data.size = 'scenes', 8, 8, (32, 32)
  content = {'config.json': workdir.to_json(config), 'metrics.json': METRICS, 'panels/index.json': INDEX,
             'cost.json': {'parameters': 10, 'gmac': 2.0}}  # fmt: skip
  workdir.write_tasks(path, TASKS)
  content['tasks.json'] = json.loads((path / 'tasks.json').read_text())
  (path / 'panels/a').mkdir(parents=True)
  for name, value in content.items():
    (path / name).write_text(json.dumps(value))
  (path / 'log.jsonl').write_text('\n'.join(map(json.dumps, LOG)) + '\n')
  for name in ('input.jpg', 'depth_label.png', 'depth_initial.png', 'depth_final.png'):
    (path / 'panels/a' / name).write_bytes(
      encoded(pattern(np.uint8, 200, 3), 'jpeg' if name.endswith('jpg') else 'png')
    )
  return content


def test_workdirs(tmp_path, monkeypatch):
  """Reports of runs whose files were mutated; config.json and tasks.json are what predict and evaluate read too."""
  path = tmp_path / 'run'
  content = write_run(path)
  monkeypatch.setattr('dmtl_jax.basics.progress.say', lambda text: None)
  monkeypatch.setattr('dmtl_jax.report.table._count', lambda entry: {})  # seconds each
  cases = [st.tuples(st.just(name), fuzzing.as_json(value)) for name, value in content.items()]
  cases.append(st.tuples(st.just('log.jsonl'), fuzzing.files((path / 'log.jsonl').read_bytes())))
  lines = fuzzing.trees(*LOG).map(lambda row: json.dumps(row).encode())
  cases.append(st.tuples(st.just('log.jsonl'), st.lists(lines, max_size=3).map(b'\n'.join)))

  def check(case):
    file = path / case[0]
    whole = file.read_bytes()
    file.write_bytes(case[1])
    try:
      return fuzzing.told(lambda _: report.write_report([str(path)], str(tmp_path / 'out')), tmp_path / 'x', file.name)
    finally:
      file.write_bytes(whole)

  run(60, st.one_of(cases), check)


def test_an_index_of_panels_deletes_nothing_elsewhere(tmp_path):
  folder, victim = tmp_path / 'run/panels', tmp_path / 'victim'
  folder.mkdir(parents=True)
  victim.mkdir()
  (tmp_path / 'other.png').write_bytes(b'')
  ids = ['../../victim', str(victim), '../../other', '..', '.', '', None, {}, 'mine']
  (folder / 'index.json').write_text(json.dumps({'images': [{'id': id} for id in ids]}))
  (folder / 'mine').mkdir()
  (folder / 'mine/input.jpg').write_bytes(b'')
  gallery.save_panels(folder, TASKS, {}, None)
  assert victim.is_dir() and (tmp_path / 'other.png').exists() and folder.is_dir() and not (folder / 'mine').exists()


def test_checkpoint_meta(tmp_path):
  meta = {'format': 1, 'config': {}, 'best': {'step': 0, 'scores': {'depth': 1.0}}}
  with ocp.CheckpointManager(tmp_path / 'checkpoints') as manager:
    manager.save(0, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta)))
  (file,) = (tmp_path / 'checkpoints/0/meta').glob('metadata')

  def check(data):
    file.write_bytes(data)
    return fuzzing.told(
      lambda _: checkpoints.Checkpoints(tmp_path, read_only=True).choose('best'), tmp_path / 'x', 'checkpoints'
    )

  run(50, fuzzing.as_json(meta), check)


# --- Images to predict -----------------------------------------------------------------------


@pytest.mark.filterwarnings('ignore')
def test_images_to_predict(tmp_path):
  seeds = [encoded(pattern(np.uint8, 255, 3), kind) for kind, _ in IMAGES]
  seeds += [encoded(pattern(np.uint16, 60_000), 'png'), encoded(pattern(np.uint8, 255, 4), 'png')]
  path = tmp_path / 'x.png'

  def check(data):
    path.write_bytes(data)
    return fuzzing.told(images.read_image, path)

  run(60, fuzzing.files(*seeds), check)
