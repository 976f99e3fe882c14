"""Orbax checkpoints: state, data iterator and notes of a run, saved together.

A checkpoint W/checkpoints/STEP holds `variables` (params, batch_stats), `optimizer` (its state, the
step, and the loss scale of a float16 network) and `meta`: the format's version, the data iterator's
state, notes of the run (`Checkpoints.notes`) and checksums that reveal a damaged checkpoint. Saves
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

from dmtl_jax.basics import bucket, sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.models import Network
from dmtl_jax.models.inputs import variable_shapes
from dmtl_jax.runs.state import initial_loss_scale, TrainState

FORMAT = 3
# Types of what `meta` holds, besides the format.
META = dict(config=dict, data=dict, crc32=dict, best=dict, window=dict, evaluated=int)


class DamagedError(UserError):
  """A checkpoint that cannot be read, or does not hold what was saved."""


@dataclasses.dataclass
class _BestAndReplayed(checkpoint_managers.PreservationPolicy):
  """Keeps the checkpoint of the best evaluation so far, and those that replay files start from."""

  workdir: epath.Path
  best: int | None = None

  def should_preserve(self, checkpoints: Sequence[Any], **_) -> Sequence[bool]:
    return [info.step == self.best or replay_file(self.workdir, info.step + 1).exists() for info in checkpoints]


def replay_file(workdir: epath.Path, step: int) -> epath.Path:
  """The path of the file that describes a step that was not finite; its replay starts from the checkpoint before."""
  return workdir / f'nan_{step}.json'


def folder(workdir: str | os.PathLike) -> epath.Path:
  """The folder of a run's checkpoints; of a run in a bucket, which is mirrored in `workdir`, the one there."""
  if mirror := bucket.find(workdir):
    return epath.Path(mirror.address) / 'checkpoints'
  return epath.Path(workdir).resolve() / 'checkpoints'


class Checkpoints:
  """The checkpoints of one workdir.

  Args:
    workdir: the run's folder.
    keep: how many of the latest to keep, besides the best.
    keep_every: also keep every checkpoint at a multiple of this step; 0: none.
    read_only: for evaluation; never writes or deletes.

  Attributes:
    notes: plain values of the checkpoint last saved or restored: 'config'; 'evaluated', the last step that was
      evaluated; 'best', {'step': int, 'scores': {task: value}} of the best evaluation so far, or {}; 'window',
      the steps not logged yet (`bad_numbers.PendingSteps.to_json`), or {}.
  """

  def __init__(self, workdir, keep: int = 2, keep_every: int = 0, read_only: bool = False):
    self.path = folder(workdir)
    self.notes: dict = {'evaluated': 0, 'best': {}, 'window': {}}
    self._preserved = _BestAndReplayed(epath.Path(workdir).resolve())
    policies = [checkpoint_managers.LatestN(max(keep, 1)), self._preserved]
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

    An existing checkpoint of the step is kept, unless it has been evaluated since, which replaces it.

    Args:
      data: state of the data iterator.
      notes: see the attribute.

    Raises:
      UserError: the parameters are not finite; nothing is saved.
      OSError: this save or the one before failed; earlier checkpoints are whole.
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
    self._preserved.best = notes['best'].get('step')
    with _os_errors(self.path):
      self._manager.save(step, args=_save_args(items, arrays, data, notes), force=True)

  def close(self):
    """Waits for pending saves; raises OSError if the last one failed (earlier checkpoints are whole)."""
    with _os_errors(self.path):
      self._manager.wait_until_finished()
      self._manager.close()

  def meta(self, step: int) -> dict:
    """{'format', 'config', 'best', ...} of a checkpoint.

    Raises:
      UserError: another version of the code wrote it.
      DamagedError: it cannot be read.
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
    """Restores the latest whole checkpoint and the position of `iterator`; returns state and step, or None, None.

    Damaged checkpoints are reported and renamed to STEP.damaged, so that the step can be saved again.

    Args:
      state: abstract state with the structure, shapes and shardings to restore.

    Raises:
      UserError: the checkpoint does not fit the model of this run, or all are damaged.
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
    if self._has_damaged():  # from this start or an earlier one: nobody wants to train from scratch beside them
      raise self._all_damaged_error()
    return None, None

  def _has_damaged(self) -> bool:
    return any(self.path.glob('*.damaged'))

  def _all_damaged_error(self) -> UserError:
    return UserError(f'{self.path}: all checkpoints are damaged; restore one from a copy, or choose a new --workdir')

  def _put_aside(self, step: int):
    # All processes find it damaged, or one has died, and what the others failed at was to read it together.
    multihost_utils.sync_global_devices(f'{step} is damaged')
    if jax.process_index() == 0:
      aside = self.path / f'{step}.damaged'
      if aside.exists():
        aside.rmtree()
      (self.path / str(step)).rename(aside)
    multihost_utils.sync_global_devices(f'{step} put aside')
    self._manager.reload()

  def _delete_old(self):
    """Deletes old checkpoints that a process killed in its last save left, whole or partly deleted."""
    self._preserved.best = self.notes['best'].get('step')
    infos = [types.SimpleNamespace(step=step) for step in self.steps()]
    kept = self._policy.should_preserve(infos, context=checkpoint_managers.PreservationContext())
    for info, keep in zip(infos, kept):
      if not keep:
        self._manager.delete(info.step)

  def restore(self, step: int, state: TrainState, iterator=None) -> TrainState:
    """Restores the state saved at `step`, and the position of `iterator`.

    Args:
      state: abstract or real state with the structure, shapes and shardings to restore.

    Raises:
      UserError: the checkpoint does not fit the model of this run.
      DamagedError: it cannot be read.
    """
    meta = self.meta(step)
    with self._damage_errors(step):
      has_scale = 'scale' in self._manager.item_metadata(step)['optimizer'].tree  # otherwise it had another dtype
    scale = _abstract(initial_loss_scale(), state.step.sharding) if has_scale else None
    items = self._restore(step, _items(state.replace(scale=scale)), meta)
    if iterator is not None:
      iterator.set_state(meta['data'])
    self.notes = meta
    optimizer = items['optimizer']
    scale = None
    if state.scale is not None:
      scale = optimizer['scale'] if has_scale else jax.device_put(initial_loss_scale(), state.step.sharding)
    return TrainState(optimizer['step'], **items['variables'], opt_state=optimizer['state'], scale=scale)

  def restore_variables(self, step: int, variables: dict) -> dict:
    """Restores only the model's variables, with the shapes and shardings of `variables`; raises as `restore`."""
    return self._restore(step, dict(variables=variables), self.meta(step))['variables']

  def _restore(self, step: int, items: dict, meta: dict) -> dict:
    """The items of a checkpoint; their shapes are checked before reading, their checksums afterwards."""
    for name, target in items.items():
      self._check_shapes(step, name, target)
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, items)
    restored = self._read(step, {name: ocp.args.StandardRestore(item) for name, item in shapes.items()})
    items = {name: restored[name] for name in items}
    actual = _checksums(_on_host(items))
    wrong = [name for name in items if meta['crc32'].get(name) != actual[name]]
    if wrong:
      raise DamagedError(f'{self.path / str(step)}: damaged (the {" and ".join(wrong)} read are not those saved)')
    return items

  def _check_shapes(self, step: int, item: str, target):
    """Raises UserError if the arrays of a checkpoint differ in name, shape or dtype; names the first that does."""
    with self._damage_errors(step):
      stored = _describe_arrays(self._manager.item_metadata(step)[item].tree)
    ours = _describe_arrays(target)
    for name in [*ours, *stored]:
      if stored.get(name) != ours.get(name):
        saved, wanted = (f'{x[1]} {list(x[0])}' if x else 'none' for x in (stored.get(name), ours.get(name)))
        raise UserError(
          f'{self.path / str(step)}: does not fit this model: {item}/{name} is {saved} there, {wanted} here; '
          f'use the config it was trained with'
        )

  def _read(self, step: int, args: dict):
    with self._damage_errors(step):
      return self._manager.restore(step, args=ocp.args.Composite(**args))

  @contextlib.contextmanager
  def _damage_errors(self, step: int):
    """Turns the errors that Orbax and TensorStore raise for damaged files into DamagedError."""
    try:
      yield
    except (PermissionError, MemoryError, jax.errors.JaxRuntimeError):
      raise  # the machine's fault, not the files'
    except Exception as error:  # TensorStore has no error class of its own
      if bucket.is_address(self.path) and bucket.describe_outage(error):
        raise
      raise DamagedError(f'{self.path / str(step)}: damaged ({_first_line(error)})') from error

  def choose(self, step: str) -> int:
    """The step of 'best' (the latest if none was evaluated), 'latest' or a number; raises UserError without one."""
    steps = self.steps()
    if not steps and self._has_damaged():
      raise self._all_damaged_error()
    if not steps:
      raise UserError(f'{self.path}: no checkpoint here; train first, or check --workdir')
    if step in ('latest', 'best'):
      latest, meta = self._latest_meta(steps)
      best = meta['best'].get('step')
      return best if step == 'best' and best in steps else latest
    if not step.isdigit() or int(step) not in steps:
      raise UserError(f'--step={step}: not one of best, latest, {", ".join(map(str, steps))}')
    return int(step)

  def _latest_meta(self, steps: list[int]) -> tuple[int, dict]:
    """The latest step whose meta can be read, and the meta; reports the others."""
    for step in reversed(steps):
      try:
        return step, self.meta(step)
      except DamagedError as error:
        say(f'{error}; the checkpoint before it is taken')
    raise self._all_damaged_error()


def save_variables(workdir, step: int, variables: dict, config: dict):
  """Writes the checkpoint of a run that is not trained here; it can be evaluated and predicted with, not resumed."""
  items = {'variables': variables}
  notes = {'config': config, 'evaluated': step, 'best': {}, 'window': {}}
  with ocp.CheckpointManager(folder(workdir)) as manager:
    manager.save(step, args=_save_args(items, _on_host(items), {'next_index': step}, notes))


def _save_args(items: dict, arrays: dict, data: dict, notes: dict) -> ocp.args.Composite:
  """What Orbax saves: the items, and 'meta' with checksums of their `arrays`."""
  meta = {'format': FORMAT, 'data': data, 'crc32': _checksums(arrays)} | notes
  saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
  return ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta))


def _items(state: TrainState) -> dict:
  scale = {} if state.scale is None else {'scale': state.scale}
  return {'variables': state.variables, 'optimizer': {'step': state.step, 'state': state.opt_state} | scale}


def _abstract(tree, place):
  """Shapes and dtypes of arrays that all have the same sharding."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def _describe_arrays(tree) -> dict[str, tuple]:
  """{'params/encoder/conv/kernel': (shape, dtype)} of arrays or abstract arrays, in order."""
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
  names = [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves]
  return {name: (tuple(x.shape), str(jnp.dtype(x.dtype))) for name, (_, x) in zip(names, leaves)}


def _on_host(items: dict) -> dict:
  """The items as whole numpy arrays; all hosts must call it."""

  def fetch(x):
    is_split = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
    return multihost_utils.process_allgather(x, tiled=True) if is_split else np.asarray(x)

  for x in jax.tree.leaves(items):
    if isinstance(x, jax.Array):
      x.copy_to_host_async()  # start all copies before waiting for the first
  return jax.tree.map(fetch, items)


def _checksums(items: dict) -> dict[str, int]:
  """A CRC-32 over all bytes of each item, however its arrays were split over devices."""

  def checksum(x) -> bytes:
    return zlib.crc32(np.ascontiguousarray(x)).to_bytes(4)

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    return {name: zlib.crc32(b''.join(pool.map(checksum, jax.tree.leaves(tree)))) for name, tree in items.items()}


def _not_from_orbax(record) -> bool:
  """Filter of log records: Orbax logs tracebacks of errors that we report in a sentence."""
  return 'orbax' not in record.pathname


@contextlib.contextmanager
def _os_errors(path: epath.Path):
  """Turns TensorStore's errors of the operating system, which only their text identifies, into OSError."""
  try:
    yield
  except ValueError as error:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if not code:
      raise
    raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _first_line(error: BaseException) -> str:
  """The first line of the message of an error's root cause."""
  while error.__cause__ or error.__context__:
    error = error.__cause__ or error.__context__ or error
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def load(workdir: str | os.PathLike, step: str, model: Network, size: tuple[int, int]) -> tuple[dict, int]:
  """Loads a network's variables (on every device) from a checkpoint of a run, and the checkpoint's step.

  Args:
    step: 'best', 'latest' or a step.
    size: height and width of the network input.

  Raises:
    UserError: no checkpoint there, or one that is damaged or does not fit the network.
  """
  checkpoints = Checkpoints(workdir, read_only=True)
  number = checkpoints.choose(step)
  target = _abstract(variable_shapes(model, size), sharding.replicated(sharding.make_mesh()))
  return checkpoints.restore_variables(number, target), number
