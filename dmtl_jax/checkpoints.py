"""Orbax checkpoints: state, data iterator and what belongs to them, saved together.

A checkpoint W/checkpoints/STEP holds `variables` (params, batch_stats), `optimizer` (its state
and the step), `data` (grain iterator) and `meta` (format version, config, best evaluation so
far). Saves are atomic and asynchronous.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Any

from absl import logging
from etils import epath
from grain import checkpoint as grain_checkpoint
import jax
import orbax.checkpoint as ocp

from dmtl_jax.errors import UserError
from dmtl_jax.state import TrainState

FORMAT = 1


@dataclasses.dataclass
class _Best(ocp.checkpoint_managers.PreservationPolicy):
  """Keeps the checkpoint of the best evaluation so far."""

  step: int | None = None

  def should_preserve(self, checkpoints: Sequence[Any], *, context) -> Sequence[bool]:
    del context
    return [info.step == self.step for info in checkpoints]


class Checkpoints:
  """The checkpoints of one workdir.

  Args:
    workdir: the run's folder.
    keep: how many of the latest to keep, besides the best.
    read_only: for evaluation; never writes or deletes.

  Attributes:
    best: {'step': int, 'scores': {task: value}} of the best evaluation so far, or {}.
  """

  def __init__(self, workdir, keep: int = 2, read_only: bool = False):
    self.path = epath.Path(workdir).resolve() / 'checkpoints'
    self._best = _Best()
    self.best: dict = {}
    policy = ocp.checkpoint_managers.AnyPreservationPolicy([ocp.checkpoint_managers.LatestN(keep), self._best])
    with _without_warnings():  # Orbax warns that read-only is read-only
      options = ocp.CheckpointManagerOptions(
          create=not read_only, read_only=read_only, preservation_policy=policy, enable_async_checkpointing=True
      )
      self._manager = ocp.CheckpointManager(self.path, options=options)

  def steps(self) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, state: TrainState, iterator, config: dict):
    """Saves asynchronously; the arrays of `state` may be donated as soon as this returns."""
    self._best.step = self.best.get('step')
    args = dict(
        variables=ocp.args.StandardSave(state.variables),
        optimizer=ocp.args.StandardSave({'step': state.step, 'state': state.opt_state}),
        data=grain_checkpoint.CheckpointSave(iterator),
        meta=ocp.args.JsonSave({'format': FORMAT, 'config': config, 'best': self.best}),
    )
    self._manager.save(int(state.step), args=ocp.args.Composite(**args), force=True)

  def close(self):
    """Waits for saves under way."""
    self._manager.wait_until_finished()
    self._manager.close()

  def meta(self, step: int) -> dict:
    """{'format', 'config', 'best'} of a checkpoint.

    Raises:
      UserError: if a newer version of the code wrote it.
    """
    meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']
    if meta['format'] > FORMAT:
      raise UserError(f"{self.path / str(step)}: format {meta['format']}, this version reads up to {FORMAT}; update dmtl_jax")
    return meta

  def restore(self, step: int, state: TrainState, iterator=None) -> TrainState:
    """The state saved at `step`; sets `iterator` to where it was.

    Args:
      state: abstract or real state with the structure, shapes and shardings wanted.

    Raises:
      UserError: if the checkpoint does not fit the model of this run.
    """
    self.best = self.meta(step)['best']
    self._best.step = self.best.get('step')
    optimizer = {'step': state.step, 'state': state.opt_state}
    args = dict(variables=_wanted(state.variables), optimizer=_wanted(optimizer))
    if iterator is not None:
      args['data'] = grain_checkpoint.CheckpointRestore(iterator)
    restored = self._restore(step, args)
    variables, optimizer = restored['variables'], restored['optimizer']
    return TrainState(optimizer['step'], variables['params'], variables['batch_stats'], optimizer['state'])

  def restore_variables(self, step: int, variables: dict) -> dict:
    """The model's variables alone, in the structure, shapes and shardings of `variables`.

    Raises:
      UserError: if the checkpoint does not fit the model.
    """
    self.meta(step)
    return self._restore(step, dict(variables=_wanted(variables)))['variables']

  def _restore(self, step, args):
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**args))
    except (ValueError, KeyError, FileNotFoundError) as error:
      raise UserError(f'{self.path / str(step)}: cannot be restored into this model ({_first_line(error)})') from error

  def choose(self, which: str) -> int:
    """Step of 'best', 'latest' or a number; best is the latest where nothing was evaluated.

    Raises:
      UserError: if there is no such checkpoint.
    """
    steps = self.steps()
    if not steps:
      raise UserError(f'{self.path}: no checkpoint here; train first, or check --workdir')
    if which == 'latest':
      return steps[-1]
    if which == 'best':
      best = self.meta(steps[-1])['best'].get('step')
      return best if best in steps else steps[-1]
    if not which.isdigit() or int(which) not in steps:
      raise UserError(f"--step={which}: not one of best, latest, {', '.join(map(str, steps))}")
    return int(which)


@contextlib.contextmanager
def _without_warnings():
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  yield
  logging.set_verbosity(before)


def _wanted(tree):
  return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))


def _first_line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
