"""Checkpoints: which are kept, which are refused, and what happens to damaged ones."""

import json
import re
import resource
import shutil

import grain
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.runs.checkpoints import Checkpoints
from dmtl_jax.runs.state import TrainState
from dmtl_jax.tasks import make_task
from dmtl_jax.training import periodic

TX = optax.adam(0.1)
DATA = {'next_index': 0}  # where an iterator stands


def state_of(step: int, width: int = 64) -> TrainState:
  """A state with arrays large enough to get their own files."""

  def draw(n: int, *shape: int):
    return jnp.asarray(np.random.default_rng((step, n)).standard_normal(shape), jnp.float32)

  params = {'conv': {'kernel': draw(0, 64, width), 'bias': draw(1, width)}, 'head': {'kernel': draw(2, width, 4)}}
  stats = {'norm': {'mean': draw(3, width)}}
  opt_state = jax.tree.map(lambda x: x + step, TX.init(params))
  return TrainState(jnp.int32(step), params, stats, opt_state)


def iterator():
  return iter(grain.MapDataset.range(100).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)))


def notes(best: int | None = None, **more) -> dict:
  return {'config': {}, 'evaluated': 0, 'best': {'step': best} if best else {}, 'window': {}} | more


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Checkpoints 1, 2 and 3; at step n, n elements have been taken from the data."""
  workdir = tmp_path_factory.mktemp('saved')
  checkpoints = Checkpoints(workdir, keep=3)
  data = iterator()
  for step in (1, 2, 3):
    next(data)
    checkpoints.save(state_of(step), data.get_state(), notes(best=1, window={'skipped': step, 'steps': []}))
  checkpoints.close()
  return workdir


@pytest.fixture
def copy(saved, tmp_path):
  shutil.copytree(saved / 'checkpoints', tmp_path / 'checkpoints')
  return tmp_path


def files(workdir, step: int):
  """The files of a checkpoint that are ever read, largest first."""
  unread = ('commit_success.txt', '_CHECKPOINT_METADATA', '_sharding')
  paths = [p for p in (workdir / f'checkpoints/{step}').rglob('*') if p.is_file() and p.name not in unread]
  return sorted((p for p in paths if 'ocdbt.process_0/manifest' not in str(p)), key=lambda p: -p.stat().st_size)


def restore_latest(workdir):
  return Checkpoints(workdir).restore_latest(state_of(0), iterator())


def test_a_checkpoint_is_restored_with_its_data_position_and_notes(saved):
  checkpoints = Checkpoints(saved)
  data = iterator()
  state, step = checkpoints.restore_latest(state_of(0), data)
  assert step == 3
  assert next(data) == 3
  assert checkpoints.notes['window'] == {'skipped': 3, 'steps': []}
  jax.tree.map(np.testing.assert_array_equal, state, state_of(3))
  assert [checkpoints.choose(which) for which in ('best', 'latest')] == [1, 3]


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
  path.write_bytes(bytes(path.stat().st_size))


def flip_one_bit(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


def remove(path):
  path.unlink()


@pytest.mark.parametrize('damage', [truncate, zero, flip_one_bit, remove])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_restored(copy, damage, capsys):
  damage(next(p for p in files(copy, 3) if '/variables/' in str(p)))
  checkpoints = Checkpoints(copy)
  data = iterator()
  state, step = checkpoints.restore_latest(state_of(0), data)
  assert step == int(state.step) == next(data) == 2
  assert re.search(r'checkpoints/3: damaged \(.+\); put aside as 3.damaged', capsys.readouterr().out)
  checkpoints.save(state_of(3), data.get_state(), notes(best=1))  # its place is free again
  checkpoints.close()
  assert Checkpoints(copy).steps() == [1, 2, 3]
  assert (copy / 'checkpoints/3.damaged').is_dir()


def test_garbage_and_missing_items_are_damage_too(copy, capsys):
  (copy / 'checkpoints/3/meta/metadata').write_text('{"format": "new"}')
  shutil.rmtree(copy / 'checkpoints/2/variables')
  assert restore_latest(copy)[1] == 1
  output = capsys.readouterr().out
  assert 'checkpoints/3/meta: no format' in output
  assert 'checkpoints/2: damaged' in output


def test_a_checkpoint_stays_where_a_process_died_while_all_read_it(copy, monkeypatch):
  def fail(name):
    raise jax.errors.JaxRuntimeError(f'{name}: connection reset by peer')

  monkeypatch.setattr(multihost_utils, 'sync_global_devices', fail)
  files(copy, 3)[0].write_bytes(b'')
  with pytest.raises(jax.errors.JaxRuntimeError, match='connection reset'):
    restore_latest(copy)
  assert sorted(path.name for path in (copy / 'checkpoints').iterdir()) == ['1', '2', '3']


def test_with_only_damaged_checkpoints_training_does_not_start_from_scratch(copy, saved):
  for step in (1, 2, 3):
    shutil.rmtree(copy / f'checkpoints/{step}/optimizer')
  for _ in range(2):  # the second start finds only *.damaged
    with pytest.raises(UserError, match='checkpoints: all checkpoints are damaged; restore one from a copy'):
      restore_latest(copy)
  with pytest.raises(UserError, match='checkpoints: all checkpoints are damaged; restore one from a copy'):
    Checkpoints(copy).choose('best')
  shutil.copytree(saved / 'checkpoints/3', copy / 'checkpoints/4')
  assert restore_latest(copy)[1] == 4


def test_whichever_file_is_zeroed_the_restored_state_is_right(copy, capsys):
  for path in files(copy, 3):
    shutil.copytree(copy / 'checkpoints', copy / 'try' / 'checkpoints', dirs_exist_ok=True)
    zero(copy / 'try' / path.relative_to(copy))
    state, step = restore_latest(copy / 'try')
    jax.tree.map(np.testing.assert_array_equal, state, state_of(step))
    shutil.rmtree(copy / 'try')
  assert capsys.readouterr().out.count('put aside as 3.damaged') >= 4  # manifests, arrays, meta


def test_a_checkpoint_of_another_network_is_refused_with_the_first_difference(copy):
  difference = r'variables/batch_stats/norm/mean is float32 \[64\] there, float32 \[32\] here; use the config'
  with pytest.raises(UserError, match=difference):
    Checkpoints(copy).restore_latest(state_of(0, width=32), iterator())
  more = state_of(0)
  more.params['head']['bias'] = jnp.zeros(4)
  with pytest.raises(UserError, match=r'variables/params/head/bias is none there, float32 \[4\] here'):
    Checkpoints(copy).restore_latest(more, iterator())
  other = state_of(0).replace(opt_state=optax.sgd(0.1).init(more.params))
  with pytest.raises(UserError, match='optimizer/state/0/'):
    Checkpoints(copy).restore_latest(other, iterator())
  assert Checkpoints(copy).steps() == [1, 2, 3]  # nothing was put aside


def test_another_format_is_refused(copy):
  path = copy / 'checkpoints/3/meta/metadata'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'format': 99}))
  with pytest.raises(UserError, match=r'checkpoints/3: format 99, this version of dmtl_jax reads \d+; use the version'):
    Checkpoints(copy).restore_latest(state_of(0), iterator())


def test_the_latest_the_best_every_fifth_and_those_of_replay_files_are_kept(tmp_path):
  (tmp_path / 'nan_4.json').write_text('{}')
  checkpoints = Checkpoints(tmp_path, keep=2, keep_every=5)
  for step in range(1, 13):
    checkpoints.save(state_of(step, 2), DATA, notes(best=7 if step >= 7 else None))
  checkpoints.close()
  assert Checkpoints(tmp_path).steps() == [3, 5, 7, 10, 11, 12]


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
  state = state_of(1)
  state.params['head']['kernel'] = state.params['head']['kernel'].at[3, 1].set(jnp.inf)
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(UserError, match='step 1: parameters are not finite and were not saved'):
    checkpoints.save(state, DATA, notes())
  assert checkpoints.steps() == []


@pytest.mark.parametrize('limit', [1000, 20_000])  # bytes: fails in Python; in a thread of TensorStore
def test_a_save_without_space_keeps_the_checkpoint_before(tmp_path, limit, capfd):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(state_of(1, 512), DATA, notes())
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
  try:
    with pytest.raises(OSError, match='File too large'):
      checkpoints.save(state_of(2, 512), DATA, notes())
      checkpoints.close()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  state, step = Checkpoints(tmp_path).restore_latest(state_of(0, 512), iterator())
  assert step == 1
  assert capfd.readouterr() == ('', '')
  jax.tree.map(np.testing.assert_array_equal, state, state_of(1, 512))


def test_half_written_and_half_deleted_checkpoints_of_a_killed_save_are_removed(copy):
  for left in ('4.orbax-checkpoint-tmp/variables', '0/meta'):
    (copy / 'checkpoints' / left).mkdir(parents=True)
  checkpoints = Checkpoints(copy)
  assert checkpoints.steps() == [0, 1, 2, 3]
  checkpoints.restore_latest(state_of(0), iterator())
  checkpoints.close()
  assert sorted(p.name for p in (copy / 'checkpoints').iterdir()) == ['1', '2', '3']  # 1 is the best


@pytest.mark.parametrize(
  'best_by, single, expected',
  [
    ('delta_m', {}, 2),  # both tasks better, then both worse
    ('delta_m', {'semseg': 1, 'depth': 1}, 2),
    ('depth/absErr', {}, 2),
    ('semseg/pixelAcc', {}, 3),
  ],
)
def test_the_best_evaluation(best_by, single, expected):
  tasks = (make_task('semseg', 'semseg', ('a', 'b')), make_task('depth', 'depth'))
  periodic.check(best_by, tasks)
  best = {}
  for step, (miou, accuracy, error) in enumerate(
    [(50, 60, 2.0), (55, 61, 1.0), (52, 62, 1.5), (51, float('nan'), 1.6)], 1
  ):
    scores = {'final': {'semseg': {'mIoU': miou, 'pixelAcc': accuracy}, 'depth': {'absErr': error}}}
    best = periodic.choose(best, step, scores, best_by, single, tasks)
  assert best['step'] == expected


def test_a_task_that_no_validation_label_shows_does_not_decide_which_is_best():
  tasks = make_task('semseg', 'semseg', [str(i) for i in range(4)]), make_task('depth', 'depth')
  best = {}
  for step, error in enumerate([2.0, 1.0, 1.5], 1):
    scores = {'final': {'semseg': {'mIoU': float('nan')}, 'depth': {'absErr': error}}}
    best = periodic.choose(best, step, scores, 'delta_m', {'semseg': 50, 'depth': 1.0}, tasks)
  assert best['step'] == 2


def test_an_unknown_measure_of_the_best_is_refused():
  with pytest.raises(UserError, match=r"config.train.best_by: 'mIoU' is none of delta_m, depth/RMSE, depth/absErr"):
    periodic.check('mIoU', (make_task('depth', 'depth'),))
