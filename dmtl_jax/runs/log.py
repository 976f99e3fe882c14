"""Learning curves of a run: W/log.jsonl and W/tensorboard.

Both are on disk when a call returns, so that a killed run loses nothing that it logged before its
last checkpoint.
"""

import json
import os
import pathlib
import time

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from dmtl_jax.basics import files
from dmtl_jax.basics.atomic import without_nan, write_atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.runs.trackers import Tracker


class Log:
  """Logs the scalars and pictures of a run; must be closed.

  Args:
    step: where the run starts. Later lines of an earlier process are dropped, as are incomplete lines, so that a
      resumed run leaves the same log as one that never stopped.
    evaluated: the last step whose evaluation counts; evaluations logged after it are dropped too.
    tracker: gets the same scalars and pictures.

  Attributes:
    writes: whether this host writes the log; only the first does.
  """

  def __init__(self, workdir: str | os.PathLike, step: int, evaluated: int, tracker: Tracker | None = None):
    self.writes = jax.process_index() == 0
    self._tracker = tracker
    if not self.writes:
      return
    path = pathlib.Path(workdir)
    jsonl = path / 'log.jsonl'
    board = path / 'tensorboard'
    if jsonl.exists():
      try:
        lines = files.read_text(jsonl, files.LOG_BYTES, 'replace').splitlines(keepends=True)
      except ValueError as error:
        raise UserError(f'{jsonl}: cannot be read ({error}); move it away') from error
      kept = [line for line in lines if _is_kept(line, step, evaluated)]
      if len(kept) < len(lines):
        write_atomic(jsonl, ''.join(kept))
    self._file = open(jsonl, 'a', encoding='utf-8')  # noqa: SIM115 (see close)
    board.mkdir(exist_ok=True)
    # SummaryWriter writes from a thread: a kill would lose its queue, and a full disk would stop it forever.
    number = len(list(board.iterdir()))  # file names have only the time in seconds, and are read in their order
    self._board = EventsWriter(str(board / 'events'), f'.{number:05}')
    self._write(step + 1, session_log=SessionLog(status=SessionLog.START))  # TensorBoard drops later steps

  def scalars(self, step: int, values: dict[str, float]):
    """Logs values under one step."""
    if not self.writes:
      return
    self._file.write(json.dumps(without_nan({'step': step} | values)) + '\n')
    self._file.flush()
    # A score of a task without validation labels is nan, of which tensorboardX warns.
    numbers = {name: value for name, value in values.items() if not np.isnan(value)}
    self._write(step, summary=Summary(value=[v for item in numbers.items() for v in summary.scalar(*item).value]))
    if self._tracker:
      self._tracker.scalars(step, values)

  def image(self, step: int, name: str, picture: np.ndarray):
    """Logs a picture [H, W, 3] uint8."""
    if not self.writes:
      return
    self._write(step, summary=summary.image(name, picture, dataformats='HWC'))
    if self._tracker:
      self._tracker.image(step, name, picture)

  def close(self):
    if self.writes:
      self._file.close()
      self._board.close()

  def _write(self, step: int, **content):
    self._board.write_event(Event(step=step, wall_time=time.time(), **content))
    self._board.flush()


def _is_kept(line: str, step: int, evaluated: int) -> bool:
  """Whether a line of log.jsonl is complete and not after `step`, or after `evaluated` if it is of an evaluation."""
  try:
    row = json.loads(line) if line.endswith('\n') else {}
    return row['step'] <= (evaluated if any(name.startswith('eval/') for name in row) else step)
  except (ValueError, TypeError, KeyError):
    return False
