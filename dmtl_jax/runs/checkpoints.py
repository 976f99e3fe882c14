"""Orbax checkpoints: state, data iterator and what belongs to them, saved together.

A checkpoint W/checkpoints/STEP holds `variables` (params, batch_stats), `optimizer` (its state, the
step and of a float16 network the loss's scale) and `meta`: the format's version, the data iterator's
state, notes of the run (`Checkpoints.notes`) and checksums, which reveal a damaged checkpoint. Saves
are atomic and asynchronous.
"""

from collections.abc import Sequence
import concurrent.futures
import contextlib
import dataclasses
import os
import re
import types
from typing import Any
import zlib

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.models import Network
from dmtl_jax.models.inputs import variable_shapes
from dmtl_jax.runs.state import loss_scale, TrainState

FORMAT = 3
# Types of what `meta` holds, besides the format.
META = dict(config=dict, data=dict, crc32=dict, best=dict, window=dict, evaluated=int)


class DamagedError(UserError):
  """A checkpoint that cannot be read, or does not hold what was saved."""


@dataclasses.dataclass
class _Wanted(checkpoint_managers.PreservationPolicy):
  """Keeps the checkpoint of the best evaluation so far, and those that a replay file starts from."""

  workdir: epath.Path
  best: int | None = None

  def should_preserve(self, checkpoints: Sequence[Any], *, context) -> Sequence[bool]:
    del context
    return [info.step == self.best or replay_file(self.workdir, info.step + 1).exists() for info in checkpoints]


def replay_file(workdir: epath.Path, step: int) -> epath.Path:
  """Where a step that was not finite is described; it starts from the checkpoint before it."""
  return workdir / f'nan_{step}.json'


class Checkpoints:
  """The checkpoints of one workdir.

  Args:
    workdir: the run's folder.
    keep: how many of the latest to keep, besides the best.
    keep_every: keeps those of every so many steps as well; 0: does not.
    read_only: for evaluation; never writes or deletes.

  Attributes:
    notes: of the checkpoint last saved or restored, plain values: 'config'; 'evaluated', the last step that was
      evaluated; 'best', {'step': int, 'scores': {task: value}} of the best evaluation so far, or {}; 'window',
      the log's open one (`bad_numbers.PendingSteps.to_json`), or {}.
  """

  def __init__(self, workdir, keep: int = 2, keep_every: int = 0, read_only: bool = False):
    workdir = epath.Path(workdir).resolve()
    self.path = workdir / 'checkpoints'
    self.notes: dict = {'evaluated': 0, 'best': {}, 'window': {}}
    self._wanted = _Wanted(workdir)
    policies = [checkpoint_managers.LatestN(max(keep, 1)), self._wanted]
    policies += [checkpoint_managers.EveryNSteps(keep_every)] if keep_every else []
    self._policy = checkpoint_managers.AnyPreservationPolicy(policies)
    logging.get_absl_logger().addFilter(_not_from_orbax)
    options = ocp.CheckpointManagerOptions(
      create=not read_only,
      read_only=read_only,
      preservation_policy=self._policy,
      cleanup_tmp_directories=not read_only,  # of saves that were killed
    )
    handlers: dict = {name: ocp.StandardCheckpointHandler() for name in ('variables', 'optimizer')}
    handlers['meta'] = ocp.JsonCheckpointHandler()
    self._manager = ocp.CheckpointManager(self.path, item_handlers=handlers, options=options)

  def steps(self) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, state: TrainState, data: dict, notes: dict):
    """Saves asynchronously; the arrays of `state` may be donated afterwards.

    A step that is saved is left alone, but replaced if it was evaluated since.

    Args:
      data: state of the data iterator.
      notes: see the attribute.

    Raises:
      UserError: parameters that are not finite, which are not saved.
      OSError: what stopped this save or the one before; earlier checkpoints are whole.
    """
    step = int(state.step)
    if step in self.steps():
      if notes['evaluated'] == self.notes['evaluated']:
        return
      self._manager.delete(step)
    self.notes = notes
    items = _items(state)
    arrays = _on_host(items)
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(arrays['variables'])):
      raise UserError(f'step {step}: parameters are not finite and were not saved; lower --config.optim.lr')
    self._wanted.best = notes['best'].get('step')
    with _os_errors(self.path):
      self._manager.save(step, args=_save_args(items, arrays, data, notes), force=True)

  def close(self):
    """Waits for saves under way; raises OSError for what stopped the last one (earlier checkpoints are whole)."""
    with _os_errors(self.path):
      self._manager.wait_until_finished()
      self._manager.close()

  def meta(self, step: int) -> dict:
    """{'format', 'config', 'best', ...} of a checkpoint.

    Raises:
      UserError: if another version of the code wrote it.
      DamagedError: if it cannot be read.
    """
    meta = self._read(step, dict(meta=ocp.args.JsonRestore()))['meta']
    if not isinstance(meta, dict) or not isinstance(meta.get('format'), int):
      raise DamagedError(f'{self.path / str(step)}/meta: no format version')
    if meta['format'] != FORMAT:
      raise UserError(
        f'{self.path / str(step)}: format {meta["format"]}, this version of dmtl_jax reads {FORMAT}; '
        f'use the version that wrote it'
      )
    if not all(isinstance(meta.get(name), kind) for name, kind in META.items()):
      raise DamagedError(f'{self.path / str(step)}/meta: not what a checkpoint holds')
    return meta

  def restore_latest(self, state: TrainState, iterator) -> tuple[TrainState | None, int | None]:
    """The latest checkpoint that is whole, and its step; sets `iterator` to where it was. None, None: there is none.

    Damaged ones are named, and renamed to STEP.damaged, so that the step can be saved again.

    Args:
      state: abstract state with the structure, shapes and shardings wanted.

    Raises:
      UserError: if the checkpoint does not fit the model of this run, or all are damaged.
    """
    steps = self.steps()
    for step in reversed(steps):
      try:
        state = self.restore(step, state, iterator)
      except DamagedError as error:
        say(f'{error}; put aside as {step}.damaged')
        self._put_aside(step)
      else:
        self._delete_old()
        return state, step
    if self._damaged():  # now, or at an earlier start: training from scratch beside them is not what anyone means
      raise self._all_damaged()
    return None, None

  def _damaged(self) -> bool:
    return any(self.path.glob('*.damaged'))

  def _all_damaged(self) -> UserError:
    return UserError(f'{self.path}: all checkpoints are damaged; restore one from a copy, or choose a new --workdir')

  def _put_aside(self, step: int):
    if jax.process_index() == 0:
      aside = self.path / f'{step}.damaged'
      if aside.exists():
        aside.rmtree()
      (self.path / str(step)).rename(aside)
    multihost_utils.sync_global_devices(f'{step} put aside')
    self._manager.reload()

  def _delete_old(self):
    """Deletes what a process that was killed in its last save had still to delete, or half did."""
    self._wanted.best = self.notes['best'].get('step')
    infos = [types.SimpleNamespace(step=step) for step in self.steps()]
    kept = self._policy.should_preserve(infos, context=checkpoint_managers.PreservationContext())
    for info, keep in zip(infos, kept):
      if not keep:
        self._manager.delete(info.step)

  def restore(self, step: int, state: TrainState, iterator=None) -> TrainState:
    """The state saved at `step`; sets `iterator` to where it was.

    Args:
      state: abstract or real state with the structure, shapes and shardings wanted.

    Raises:
      UserError: if the checkpoint does not fit the model of this run.
      DamagedError: if it cannot be read.
    """
    meta = self.meta(step)
    with self._told(step):
      scaled = 'scale' in self._manager.item_metadata(step)['optimizer'].tree  # else it is of another dtype
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=state.step.sharding)
    wanted = state.replace(scale=jax.tree.map(place, loss_scale()) if scaled else None)
    items = self._restore(step, _items(wanted), meta)
    if iterator is not None:
      iterator.set_state(meta['data'])
    self.notes = meta
    variables, optimizer = items['variables'], items['optimizer']
    scale = None
    if state.scale is not None:
      scale = optimizer['scale'] if scaled else jax.device_put(loss_scale(), state.step.sharding)
    return TrainState(optimizer['step'], variables['params'], variables['batch_stats'], optimizer['state'], scale)

  def restore_variables(self, step: int, variables: dict) -> dict:
    """The model's variables alone, in the structure, shapes and shardings of `variables`; raises as `restore`."""
    return self._restore(step, dict(variables=variables), self.meta(step))['variables']

  def _restore(self, step: int, items: dict, meta: dict) -> dict:
    """The items of a checkpoint, compared with what is wanted before and with the saved sums after."""
    for name, wanted in items.items():
      self._compare(step, name, wanted)
    wanted = {name: ocp.args.StandardRestore(_shapes(item)) for name, item in items.items()}
    restored = self._read(step, wanted)
    items = {name: restored[name] for name in items}
    sums = _checksums(_on_host(items))
    wrong = [name for name in items if meta['crc32'].get(name) != sums[name]]
    if wrong:
      raise DamagedError(f'{self.path / str(step)}: damaged (the {" and ".join(wrong)} read are not those saved)')
    return items

  def _compare(self, step: int, item: str, wanted):
    """Raises UserError where the arrays of a checkpoint and those wanted differ, naming the first that does."""
    with self._told(step):
      stored = _flat(self._manager.item_metadata(step)[item].tree)
    ours = _flat(wanted)
    for name in [*ours, *stored]:
      if stored.get(name) != ours.get(name):
        here, there = (f'{x[1]} {list(x[0])}' if x else 'none' for x in (stored.get(name), ours.get(name)))
        raise UserError(
          f'{self.path / str(step)}: does not fit this model: {item}/{name} is {here} there, {there} here; '
          f'use the config it was trained with'
        )

  def _read(self, step: int, args: dict):
    with self._told(step):
      return self._manager.restore(step, args=ocp.args.Composite(**args))

  @contextlib.contextmanager
  def _told(self, step: int):
    """Turns what Orbax and TensorStore raise for damaged files into DamagedError."""
    try:
      yield
    except (PermissionError, MemoryError, jax.errors.JaxRuntimeError):
      raise  # of this machine, not of the files
    except Exception as error:  # TensorStore's have no class of their own
      raise DamagedError(f'{self.path / str(step)}: damaged ({_first_line(error)})') from error

  def choose(self, which: str) -> int:
    """Step of 'best' (the latest where nothing was evaluated), 'latest' or a number; raises UserError without one."""
    steps = self.steps()
    if not steps and self._damaged():
      raise self._all_damaged()
    if not steps:
      raise UserError(f'{self.path}: no checkpoint here; train first, or check --workdir')
    if which in ('latest', 'best'):
      latest, meta = self._latest_meta(steps)
      best = meta['best'].get('step')
      return best if which == 'best' and best in steps else latest
    if not which.isdigit() or int(which) not in steps:
      raise UserError(f'--step={which}: not one of best, latest, {", ".join(map(str, steps))}')
    return int(which)

  def _latest_meta(self, steps: list[int]) -> tuple[int, dict]:
    """The latest step whose meta can be read, and that; the others are named."""
    for step in reversed(steps):
      try:
        return step, self.meta(step)
      except DamagedError as error:
        say(f'{error}; the checkpoint before it is taken')
    raise self._all_damaged()


def save_variables(workdir, step: int, variables: dict, config: dict):
  """Writes the checkpoint of a run that is not trained here; it can be evaluated and predicted with, not resumed."""
  items = {'variables': variables}
  notes = {'config': config, 'evaluated': step, 'best': {}, 'window': {}}
  with ocp.CheckpointManager(epath.Path(workdir).resolve() / 'checkpoints') as manager:
    manager.save(step, args=_save_args(items, _on_host(items), {'next_index': step}, notes))


def _save_args(items: dict, arrays: dict, data: dict, notes: dict) -> ocp.args.Composite:
  """What Orbax saves: the items, and 'meta' with checksums of their `arrays`."""
  meta = {'format': FORMAT, 'data': data, 'crc32': _checksums(arrays)} | notes
  saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
  return ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta))


def _items(state: TrainState) -> dict:
  scale = {} if state.scale is None else {'scale': state.scale}
  return {'variables': state.variables, 'optimizer': {'step': state.step, 'state': state.opt_state} | scale}


def _shapes(tree):
  return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _flat(tree) -> dict[str, tuple]:
  """{'params/encoder/conv/kernel': (shape, dtype)} of arrays or what describes them, in order."""
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator='/')
  return {name(path): (tuple(x.shape), str(jnp.dtype(x.dtype))) for path, x in leaves}


def _on_host(items: dict) -> dict:
  """The same with numpy arrays, each whole; all hosts must call it."""

  def whole(x):
    shared = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
    return multihost_utils.process_allgather(x, tiled=True) if shared else np.asarray(x)

  for x in jax.tree.leaves(items):
    if isinstance(x, jax.Array):
      x.copy_to_host_async()  # all at once, before the first is waited for
  return jax.tree.map(whole, items)


def _checksums(items: dict) -> dict[str, int]:
  """A CRC-32 over all bytes of each item; how its arrays were split over devices does not matter."""
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    of = lambda tree: b''.join(
      pool.map(lambda x: zlib.crc32(np.ascontiguousarray(x)).to_bytes(4), jax.tree.leaves(tree))
    )
    return {name: zlib.crc32(of(tree)) for name, tree in items.items()}


def _not_from_orbax(record) -> bool:
  """Filter of log records: Orbax writes tracebacks of what we tell in a sentence."""
  return 'orbax' not in record.pathname


@contextlib.contextmanager
def _os_errors(path: epath.Path):
  """Turns TensorStore's errors of the operating system into OSError: it has no type for them, the text alone tells."""
  try:
    yield
  except ValueError as error:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if not code:
      raise
    raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _first_line(error: BaseException) -> str:
  """What an error says, in a line, of the error that was the cause of all."""
  while error.__cause__ or error.__context__:
    error = error.__cause__ or error.__context__ or error
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def load(workdir: str | os.PathLike, which: str, model: Network, size: tuple[int, int]) -> tuple[dict, int]:
  """A network's variables (on every device) in a checkpoint of a run, and its step.

  Args:
    which: 'best', 'latest' or a step.
    size: height and width of the network input.

  Raises:
    UserError: no checkpoint there, or one that is damaged or does not fit the network.
  """
  checkpoints = Checkpoints(workdir, read_only=True)
  step = checkpoints.choose(which)
  everywhere = sharding.replicated(sharding.make_mesh())
  shapes = variable_shapes(model, size)
  wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes)
  return checkpoints.restore_variables(step, wanted), step
