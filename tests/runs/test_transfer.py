"""Starting from another run: what is taken is equal to the bit, the rest is as the seed drew it, and the text says so."""

import functools

import jax
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import common
from dmtl_jax.jobs import convert
from dmtl_jax.models import build_model, METHODS
from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts import encoder
from dmtl_jax.runs import pretrained, transfer
from dmtl_jax.runs.transfer import Part
from dmtl_jax.tasks import make_task
from tests.tiny import random_variables, SIZE, TASKS, tiny_config

SEMSEG, PARSING, SALIENCY, NORMALS, BOUNDARY, DEPTH = TASKS


@pytest.fixture(autouse=True)
def small_encoder(request, monkeypatch):
  """All networks here have stages of one block; a `tiny_run` sets its own."""
  if 'tiny_run' not in request.fixturenames:
    monkeypatch.setitem(encoder.STAGES, 'resnet18', (1, 1, 1, 1))


@functools.cache
def network(tasks=TASKS, arg='method=no_diffusion', seed=0, **model):
  """A network and random variables of it, numpy."""
  config = tiny_config(arg)
  config.model.update(initial_weights='paper', **model)
  network = build_model(config, tasks)
  return network, jax.tree.map(np.float32, random_variables(network, seed=seed))


def start(ours, theirs, tasks, their_tasks=TASKS):
  return transfer.transfer(ours, tasks, theirs, their_tasks)


def outputs(model, variables, tasks):
  images = np.random.default_rng(3).standard_normal((2, *SIZE, 3), np.float32)
  return jax.jit(model.apply)(variables, images, **model_inputs(model, images, jax.random.key(1), len(tasks))).final


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('method', list(METHODS))
def test_a_network_with_equal_tasks_is_the_same_function(method):
  _, theirs = network(arg=f'method={method}', seed=1)
  ours = jax.tree.map(np.zeros_like, theirs)
  result = start(ours, theirs, TASKS)
  assert_equal(result.variables, theirs)
  assert result.fresh == {}
  assert result.share == 1


@pytest.mark.parametrize('arg', ['method=no_diffusion', 'method=no_diffusion,condition=concat', 'method=feature'])
def test_another_order_of_tasks_and_classes_is_the_same_function(arg):
  """Of features no noise is added, as its draws depend on the order; classes come out in the new order."""
  model_fields = dict(add_noise=False) if 'feature' in arg else {}
  semseg = make_task('semseg', 'semseg', ('tree', 'sky', 'road', 'car'))
  tasks = (DEPTH, semseg, NORMALS, SALIENCY, PARSING, BOUNDARY)
  their_model, theirs = network(TASKS, arg, seed=1, **model_fields)
  our_model, ours = network(tasks, arg, seed=2, **model_fields)
  result = start(ours, theirs, tasks)
  assert result.share == 1
  expected = outputs(their_model, theirs, TASKS)
  got = outputs(our_model, result.variables, tasks)
  for task in tasks:
    order = [SEMSEG.classes.index(name) for name in task.classes] if task is semseg else slice(None)
    np.testing.assert_allclose(got[task.name], expected[task.name][..., order], rtol=1e-3, atol=1e-4)


def test_only_what_belongs_to_equal_tasks_is_taken():
  """Of other classes only the decoder; of a task by another name all; of a new one nothing."""
  tasks = (
    make_task('rooms', 'normals'),
    make_task('semseg', 'semseg', ('sky', 'road', 'bus', 'tree')),
    make_task('parsing', 'parsing', ('background', 'head')),
    make_task('far', 'depth'),
    make_task('flat', 'depth'),
  )
  _, theirs = network(seed=1)
  _, ours = network(tasks, seed=2)
  before = jax.tree.map(np.copy, ours)
  result = start(ours, theirs, tasks)
  assert_equal(ours, before)
  params = result.variables['params']
  their_params = theirs['params']
  assert result.renamed == {'rooms': 'normals'}
  assert_equal(params['backbone'], their_params['backbone'])
  assert_equal(result.variables['batch_stats']['backbone'], theirs['batch_stats']['backbone'])
  for ours_name, theirs_name in (('rooms', 'normals'), ('semseg', 'semseg'), ('parsing', 'parsing')):
    block = f'{ours_name}_block0'
    assert_equal(params['decoders'][block], their_params['decoders'][f'{theirs_name}_block0'])
    assert_equal(
      result.variables['batch_stats']['decoders'][block], theirs['batch_stats']['decoders'][f'{theirs_name}_block0']
    )
  assert_equal(params['decoders']['rooms_head'], their_params['decoders']['normals_head'])
  for name in ('semseg_head', 'parsing_head', 'far_head', 'far_block0', 'flat_block0'):
    assert_equal(params['decoders'][name], before['params']['decoders'][name])
  heads = params['denoiser']['heads']['conv1']['kernel']
  np.testing.assert_array_equal(heads[0], their_params['denoiser']['heads']['conv1']['kernel'][3])
  np.testing.assert_array_equal(heads[1:], before['params']['denoiser']['heads']['conv1']['kernel'][1:])
  embed = params['denoiser']['embed']['kernel']
  np.testing.assert_array_equal(embed[:, :, :3], their_params['denoiser']['embed']['kernel'][:, :, 9:12])
  np.testing.assert_array_equal(embed[:, :, 3:], before['params']['denoiser']['embed']['kernel'][:, :, 3:])
  predict = params['denoiser']['predict']['kernel']
  np.testing.assert_array_equal(predict[:, :3], their_params['denoiser']['predict']['kernel'][:, 9:12])
  np.testing.assert_array_equal(predict[:, 3:], before['params']['denoiser']['predict']['kernel'][:, 3:])
  fuse = params['conditioning']['fuse']['kernel']
  np.testing.assert_array_equal(fuse[:, :, :16], their_params['conditioning']['fuse']['kernel'][:, :, 48:64])
  np.testing.assert_array_equal(fuse[:, :, 16:], before['params']['conditioning']['fuse']['kernel'][:, :, 16:])
  assert_equal(params['denoiser']['block0'], their_params['denoiser']['block0'])
  text = result.describe()
  assert 'took ' in text
  assert "encoder, encoder's last layer, " in text
  assert 'decoder (rooms, semseg, parsing)' in text
  assert 'head (rooms)' in text
  assert 'denoiser (shared, rooms)' in text
  assert 'rooms starts from normals' in text
  assert 'head (semseg: other classes there)' in text
  assert 'head (parsing: 3 classes there, 2 here)' in text
  assert 'decoder (far, flat: no such task there)' in text


def test_the_share_is_that_of_the_weights_that_changed():
  tasks = (SEMSEG, make_task('far', 'depth'), make_task('near', 'depth'))
  _, theirs = network(seed=1)
  _, ours = network(tasks, seed=2)
  result = start(ours, theirs, tasks)
  leaves = list(zip(jax.tree.leaves(ours), jax.tree.leaves(result.variables)))
  changed = sum(int((a != b).sum()) for a, b in leaves)
  assert result.share == changed / sum(a.size for a, _ in leaves)


@pytest.mark.parametrize(
  'theirs, ours, taken, fresh',
  [
    ('mtl_baseline', 'prediction', {'encoder', 'reduce', 'decoder', 'head'}, {'denoiser': 'not in that run'}),
    ('prediction', 'mtl_baseline', {'encoder', 'reduce', 'decoder', 'head'}, {}),
    ('prediction', 'feature', {'encoder', 'reduce', 'decoder', 'head'}, {'denoiser': 'of another size there'}),
    ('prediction', 'single_task', {'encoder', 'reduce', 'decoder', 'head'}, {}),
    ('invpt', 'prediction', {'encoder', 'reduce', 'decoder', 'head'}, {'denoiser': 'not in that run'}),
    ('prediction', 'mti_net', {'encoder'}, {'rest': 'not in that run'}),
  ],
)
def test_another_method_gives_what_fits(theirs, ours, taken, fresh):
  _, source = network(arg=f'method={theirs}', seed=1)
  _, variables = network(arg=f'method={ours}', seed=2)
  result = start(variables, source, TASKS)
  assert {part.kind for part in result.taken} == taken
  assert {part.kind: reason for part, reason in result.fresh.items() if part.task or part.kind == 'rest'} == fresh


def test_other_sizes_leave_parts_fresh():
  _, theirs = network(seed=1)
  _, wider = network(seed=2, width=16)
  result = start(wider, theirs, TASKS)
  assert {part.kind for part in result.fresh} == {'encoder', 'reduce'}
  _, deeper = network(seed=2, depth=2)
  result = start(deeper, theirs, TASKS)
  assert {part.kind for part in result.fresh} == {'denoiser'}  # its tasks' layers too, which share its channels
  assert Part('denoiser', 'depth') in result.fresh


def test_layers_of_all_tasks_are_taken_only_in_their_order():
  _, theirs = network(arg='method=invpt', seed=1)
  _, ours = network(TASKS[::-1], arg='method=invpt', seed=2)
  result = start(ours, theirs, TASKS[::-1])
  assert result.fresh == {Part('rest'): 'other tasks or classes there, or another order'}
  assert_equal(result.variables['params']['stage0'], ours['params']['stage0'])


@pytest.mark.parametrize(
  'ours, theirs, pairs',
  [
    (('semseg:semseg',), ('semseg:semseg',), {'semseg': 'semseg'}),
    (('depth:boundary',), ('depth:depth',), {}),
    (('far:depth',), ('depth:depth', 'edges:boundary'), {'far': 'depth'}),
    (('far:depth', 'near:depth'), ('depth:depth',), {}),
    (('far:depth',), ('depth:depth', 'near:depth'), {}),
    (('far:depth', 'near:depth'), ('depth:depth', 'near:depth'), {'near': 'near', 'far': 'depth'}),
  ],
)
def test_tasks_are_matched_by_name_and_else_by_kind(ours, theirs, pairs):
  make = lambda names: [make_task(name, kind, ('a', 'b') if kind == 'semseg' else ()) for name, kind in names]
  split = lambda texts: make([text.split(':') for text in texts])
  assert {name: task.name for name, task in transfer.match_tasks(split(ours), split(theirs)).items()} == pairs


def test_a_run_is_loaded_and_described(tiny_run, capsys):
  config = tiny_config('method=prediction')
  tasks = (DEPTH, make_task('semseg', 'semseg', ('a', 'b')))
  ours = jax.tree.map(np.float32, random_variables(build_model(config, tasks)))
  variables = pretrained.load(str(tiny_run), ours, tasks)
  assert capsys.readouterr().out.startswith(f'{tiny_run}: took ')
  stored = transfer.checkpoints_lib.load(tiny_run, 'best', build_model(config, TASKS), SIZE)[0]
  assert_equal(variables['params']['backbone'], jax.device_get(stored['params']['backbone']))
  assert_equal(variables['params']['decoders']['semseg_head'], ours['params']['decoders']['semseg_head'])


def test_nothing_fits(tiny_run):
  config = tiny_config('method=prediction')
  config.model.update(width=16, channels=32)
  model = build_model(config, TASKS)
  with pytest.raises(
    UserError, match='nothing in .* fits .* --config.model.width=8 --config.model.channels=16'
  ) as error:
    pretrained.load(str(tiny_run), random_variables(model), TASKS)
  assert '\n' not in str(error.value)


def test_the_network_that_comes_with_the_package_is_a_source(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  pretrained.check('scenes')
  config = common.base('method=prediction')
  assert config.init_from == ''
  with pytest.raises(UserError, match="'scene': no such file"):
    pretrained.check('scene')


@pytest.mark.parametrize('file', ['config.json', 'tasks.json', 'checkpoints/7/variables/manifest.ocdbt'])
def test_a_damaged_source_is_refused_in_a_sentence(tiny_run, tmp_path, file):
  config = tiny_config('method=prediction')
  tasks = TASKS
  copy = tmp_path / 'run'
  convert.run(str(tiny_run), str(copy), None)
  (copy / file).write_bytes(b'{"a": [1, 2')
  with pytest.raises(UserError) as error:
    pretrained.load(str(copy), random_variables(build_model(config, tasks)), tasks)
  assert '\n' not in str(error.value)
