"""Checkpoints: what is kept, what is refused, and what happens to damaged ones."""

import json
import re
import resource
import shutil

import grain
import jax
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
  """Parameters large enough to get files of their own."""
  draw = lambda n, *shape: jnp.asarray(np.random.default_rng((step, n)).standard_normal(shape), jnp.float32)
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
  """Checkpoints 1, 2 and 3; at step n, n elements were taken from the data."""
  workdir = tmp_path_factory.mktemp('saved')
  checkpoints, data = Checkpoints(workdir, keep=3), iterator()
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
  """The files of a checkpoint that are read at all."""
  root = workdir / 'checkpoints' / str(step)
  aside = ('commit_success.txt', '_CHECKPOINT_METADATA', '_sharding')
  found = [
    p for p in root.rglob('*') if p.is_file() and p.name not in aside and 'ocdbt.process_0/manifest' not in str(p)
  ]
  return sorted(found, key=lambda p: -p.stat().st_size)


def test_what_was_saved_comes_back_with_its_data(saved):
  checkpoints, data = Checkpoints(saved), iterator()
  state, step = checkpoints.restore_latest(state_of(0), data)
  assert step == 3 and next(data) == 3 and checkpoints.notes['window'] == {'skipped': 3, 'steps': []}
  jax.tree.map(np.testing.assert_array_equal, state, state_of(3))
  assert checkpoints.choose('best') == 1 and checkpoints.choose('latest') == 3


def truncated(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeroed(path):
  path.write_bytes(bytes(path.stat().st_size))


def one_bit_flipped(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


def gone(path):
  path.unlink()


@pytest.mark.parametrize('damage', [truncated, zeroed, one_bit_flipped, gone])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(copy, damage, capsys):
  """The largest file, that of the arrays, of the latest; then whole items of the one before."""
  damage(next(p for p in files(copy, 3) if '/variables/' in str(p)))
  checkpoints, data = Checkpoints(copy), iterator()
  state, step = checkpoints.restore_latest(state_of(0), data)
  assert step == 2 and int(state.step) == 2 and next(data) == 2
  said = capsys.readouterr().out
  assert re.search(r'checkpoints/3: damaged \(.+\); put aside as 3.damaged', said), said
  checkpoints.save(state_of(3), data.get_state(), notes(best=1))  # its place is free again
  checkpoints.close()
  assert Checkpoints(copy).steps() == [1, 2, 3] and (copy / 'checkpoints/3.damaged').is_dir()


def test_garbage_and_missing_items_are_damage_too(copy, capsys):
  shutil.copytree(copy / 'checkpoints/3', copy / 'checkpoints/4.whole')
  (copy / 'checkpoints/3/meta/metadata').write_text('{"format": "new"}')
  shutil.rmtree(copy / 'checkpoints/2/variables')
  assert Checkpoints(copy).restore_latest(state_of(0), iterator())[1] == 1
  assert 'checkpoints/3/meta: no format' in (said := capsys.readouterr().out) and 'checkpoints/2: damaged' in said
  shutil.rmtree(copy / 'checkpoints/1/optimizer')
  for _ in range(2):  # the second start finds none, and must not train from scratch
    with pytest.raises(UserError, match='checkpoints: all checkpoints are damaged; restore one from a copy'):
      Checkpoints(copy).restore_latest(state_of(0), iterator())
  with pytest.raises(UserError, match='checkpoints: all checkpoints are damaged; restore one from a copy'):
    Checkpoints(copy).choose('best')
  shutil.copytree(copy / 'checkpoints/4.whole', copy / 'checkpoints/4')
  assert Checkpoints(copy).restore_latest(state_of(0), iterator())[1] == 4


def test_every_file_matters_or_does_not(copy, capsys):
  """Whichever file is zeroed: what is restored is right, or the checkpoint is put aside."""
  for path in files(copy, 3):
    shutil.copytree(copy / 'checkpoints', copy / 'try' / 'checkpoints', dirs_exist_ok=True)
    zeroed(copy / 'try' / path.relative_to(copy))
    state, step = Checkpoints(copy / 'try').restore_latest(state_of(0), iterator())
    jax.tree.map(np.testing.assert_array_equal, state, state_of(step))
    shutil.rmtree(copy / 'try')
  assert capsys.readouterr().out.count('put aside as 3.damaged') >= 4  # manifests, arrays, meta


def test_another_network_is_refused_by_the_first_parameter_that_differs(copy):
  message = r'variables/batch_stats/norm/mean is float32 \[64\] there, float32 \[32\] here; use the config'
  with pytest.raises(UserError, match=message):
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


def test_the_latest_the_best_every_nth_and_those_of_replay_files_are_kept(tmp_path):
  (tmp_path / 'nan_4.json').write_text('{}')
  checkpoints = Checkpoints(tmp_path, keep=2, keep_every=5)
  for step in range(1, 13):
    checkpoints.save(state_of(step, 2), DATA, notes(best=7 if step >= 7 else None))
  checkpoints.close()
  assert checkpoints.steps() == Checkpoints(tmp_path).steps() == [3, 5, 7, 10, 11, 12]


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
  checkpoints, state = Checkpoints(tmp_path), state_of(1)
  state.params['head']['kernel'] = state.params['head']['kernel'].at[3, 1].set(jnp.inf)
  with pytest.raises(UserError, match='step 1: parameters are not finite and were not saved'):
    checkpoints.save(state, DATA, notes())
  assert checkpoints.steps() == []


@pytest.mark.parametrize('limit', [1000, 20_000])  # in a file of Python's; in one that TensorStore writes in a thread
def test_a_save_that_finds_no_room_leaves_the_one_before(tmp_path, limit, capfd):
  checkpoints, limits = Checkpoints(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
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
  assert step == 1 and capfd.readouterr() == ('', '')
  jax.tree.map(np.testing.assert_array_equal, state, state_of(1, 512))


def test_what_a_killed_save_left_is_removed(copy):
  """A new checkpoint half written, an old one half deleted."""
  for left in ('4.orbax-checkpoint-tmp/variables', '0/meta'):
    (copy / 'checkpoints' / left).mkdir(parents=True)
  checkpoints = Checkpoints(copy)
  assert checkpoints.steps() == [0, 1, 2, 3]
  assert checkpoints.restore_latest(state_of(0), iterator())[1] == 3
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
  so_far = {}
  for step, (miou, accuracy, error) in enumerate(
    [(50, 60, 2.0), (55, 61, 1.0), (52, 62, 1.5), (51, float('nan'), 1.6)], 1
  ):
    scores = {'final': {'semseg': {'mIoU': miou, 'pixelAcc': accuracy}, 'depth': {'absErr': error}}}
    so_far = periodic.choose(so_far, step, scores, best_by, single, tasks)
  assert so_far['step'] == expected


def test_an_unknown_measure_of_the_best_is_refused():
  with pytest.raises(UserError, match=r"config.train.best_by: 'mIoU' is none of delta_m, depth/RMSE, depth/absErr"):
    periodic.check('mIoU', (make_task('depth', 'depth'),))
