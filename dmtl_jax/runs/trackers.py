"""Experiment trackers that follow a training: Weights & Biases, Trackio and MLflow (config.train.tracker).

A thread makes all calls, so that a slow network does not slow a step. If a call fails, one sentence says so, and the
training goes on without the tracker.
"""

from collections.abc import Callable
import contextlib
import json
import math
import os
import pathlib
import queue
import re
import secrets
import threading
import time
from typing import Literal, Protocol

from flax.traverse_util import flatten_dict
import jax
import numpy as np

from dmtl_jax.basics import files
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import sanitize
from dmtl_jax.basics.progress import say

PROJECT = 'dmtl_jax'  # the name under which trackers list the runs
PENDING = 1000  # calls that may wait for a tracker; log lines of hours
PATIENCE = 60.0  # seconds to wait for the last calls when a training ends
FILE = 'tracker.json'

Outcome = Literal['finished', 'stopped', 'failed']  # of a process that trains; a stopped one is resumed later


class Client(Protocol):
  """A run in a tracker.

  Attributes:
    id: opens the same run again.
  """

  id: str

  def scalars(self, step: int, values: dict[str, float]): ...

  def image(self, step: int, name: str, picture: np.ndarray): ...

  def finish(self, step: int, scores: dict[str, float], page: pathlib.Path):
    """Adds the final scores and the report."""
    ...

  def close(self, outcome: Outcome): ...


class WandbClient:
  """`WANDB_MODE=offline` keeps everything in the workdir; `wandb sync` uploads it."""

  EXIT_CODES = {'finished': 0, 'stopped': 255, 'failed': 1}  # 255: as wandb itself says of Ctrl-C

  def __init__(self, workdir: pathlib.Path, name: str, id: str | None, config: dict):
    import wandb

    self._wandb = wandb
    self.id = id or name
    mode = wandb.setup().settings.mode
    if mode == 'online' and not wandb.login(prompt=False):  # init would ask on the terminal
      raise RuntimeError('not logged in; run `wandb login`, or set WANDB_MODE=offline')
    settings = wandb.Settings(console='off')  # the terminal stays ours
    place = dict(project=PROJECT, dir=str(workdir), settings=settings)
    self._run = wandb.init(**place, id=self.id, name=self.id, resume='allow', config=config, allow_val_change=True)

  def scalars(self, step: int, values: dict[str, float]):
    self._run.log(values, step=step)

  def image(self, step: int, name: str, picture: np.ndarray):
    self._run.log({name: self._wandb.Image(picture)}, step=step)

  def finish(self, step: int, scores: dict[str, float], page: pathlib.Path):
    self._run.summary.update(scores)
    self._run.log({'report': self._wandb.Html(page.read_text(encoding='utf-8'), inject=False)}, step=step)

  def close(self, outcome: Outcome):
    self._run.finish(exit_code=self.EXIT_CODES[outcome])


class TrackioClient:
  """Local by default (`trackio show`); `TRACKIO_DIR` says where."""

  def __init__(self, workdir: pathlib.Path, name: str, id: str | None, config: dict):
    import trackio

    self._trackio = trackio
    self.id = id or name
    self._run = trackio.init(project=PROJECT, name=self.id, resume='allow', config=config, embed=False)

  def scalars(self, step: int, values: dict[str, float]):
    self._run.log(values, step=step)

  def image(self, step: int, name: str, picture: np.ndarray):
    self._run.log({name: self._trackio.Image(picture)}, step=step)

  def finish(self, step: int, scores: dict[str, float], page: pathlib.Path):
    self._run.log(scores, step=step)
    self._run.log({'report': self._trackio.Html(str(page))}, step=step)

  def close(self, outcome: Outcome):
    self._run.finish()  # Trackio keeps no status of a run


class MlflowClient:
  """`MLFLOW_TRACKING_URI` says where: a server, or sqlite:///FILE."""

  STATUS = {'finished': 'FINISHED', 'stopped': 'KILLED', 'failed': 'FAILED'}

  def __init__(self, workdir: pathlib.Path, name: str, id: str | None, config: dict):
    import mlflow
    from mlflow.entities import Metric, Param

    self._metric = Metric
    self._client = mlflow.MlflowClient()
    if id:
      self.id = id
      self._client.update_run(id, status='RUNNING')
      return
    experiment = self._client.get_experiment_by_name(PROJECT)
    number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
    self.id = self._client.create_run(number, run_name=name).info.run_id
    params = [
      Param(key, str(value)[:500]) for key, value in flatten_dict(config, sep='.').items()
    ]  # MLflow's limits: 500 characters
    for start in range(0, len(params), 100):  # and 100 at a time
      self._client.log_batch(self.id, params=params[start : start + 100])

  def scalars(self, step: int, values: dict[str, float]):
    now = int(time.time() * 1000)
    allowed = {re.sub(r'[^\w./ -]', '_', name): value for name, value in values.items()}
    self._client.log_batch(self.id, metrics=[self._metric(name, value, now, step) for name, value in allowed.items()])

  def image(self, step: int, name: str, picture: np.ndarray):
    self._client.log_image(self.id, picture, key=re.sub(r'[^\w./ -]', '_', name), step=step)

  def finish(self, step: int, scores: dict[str, float], page: pathlib.Path):
    self.scalars(step, scores)
    self._client.log_artifact(self.id, str(page))

  def close(self, outcome: Outcome):
    self._client.set_terminated(self.id, self.STATUS[outcome])


CLIENTS: dict[str, Callable[..., Client]] = {'wandb': WandbClient, 'trackio': TrackioClient, 'mlflow': MlflowClient}


class Tracker:
  """Sends to a tracker what a run logs in a `with` block. Without a tracker, or on other hosts, it does nothing.

  The first call opens it. No call raises, and only the end of the block waits, for at most `PATIENCE` seconds. It marks
  the run as finished if `finish` was called, as failed after an error, else as stopped.

  Args:
    name: config.train.tracker.
    config: the run's config as JSON values.
    resumes: whether the run goes on from a checkpoint; then it does so in the tracker too, by the id in W/tracker.json.
  """

  def __init__(self, name: str, workdir: str | os.PathLike, config: dict, resumes: bool):
    self._name = name if name != 'none' and jax.process_index() == 0 else ''
    self._workdir = pathlib.Path(workdir)
    self._config = config
    self._resumes = resumes
    self._calls: queue.Queue[Callable[[Client], None] | None] = queue.Queue(PENDING)
    self._thread: threading.Thread | None = None
    self._outcome: Outcome = 'stopped'

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    if isinstance(error, Exception):  # no Ctrl-C
      self._outcome = 'failed'
    self._close()

  def scalars(self, step: int, values: dict[str, float]):
    """Sends the values that are numbers."""
    numbers = {name: float(value) for name, value in values.items() if math.isfinite(value)}
    self._send(lambda client: client.scalars(step, numbers))

  def image(self, step: int, name: str, picture: np.ndarray):
    """Sends a picture [H, W, 3] uint8."""
    self._send(lambda client: client.image(step, name, picture))

  def finish(self, step: int, scores: dict[str, float], page: pathlib.Path):
    """Sends the final scores and the report."""
    numbers = {name: float(value) for name, value in scores.items() if math.isfinite(value)}
    self._send(lambda client: client.finish(step, numbers, page))
    self._outcome = 'finished'

  def _close(self):
    """Waits until all is sent."""
    if self._name and self._thread:
      until = time.monotonic() + PATIENCE
      with contextlib.suppress(queue.Full):
        self._calls.put(None, timeout=PATIENCE)
      self._thread.join(max(until - time.monotonic(), 0))
      if self._thread.is_alive():
        self._drop(f'no answer within {PATIENCE:g} s')

  def _send(self, call: Callable[[Client], None]):
    if not self._name:
      return
    if self._thread is None:
      self._thread = threading.Thread(target=self._work, daemon=True)
      self._thread.start()
    try:
      self._calls.put_nowait(call)
    except queue.Full:
      self._drop(f'{PENDING} calls are waiting for it')

  def _work(self):
    try:
      client = self._open()
      while call := self._calls.get():
        if not self._name:
          return
        call(client)
      client.close(self._outcome)
    except ModuleNotFoundError as error:
      self._drop(f'{error.name} is not installed; run pip install {self._name}')
    except BaseException as error:  # some libraries exit
      self._drop(f'{type(error).__name__}: {error}')

  def _open(self) -> Client:
    path = self._workdir / FILE
    id = read_id(path, self._name) if self._resumes else None
    name = f'{self._workdir.resolve().name}-{secrets.token_hex(3)}'
    client = CLIENTS[self._name](self._workdir, name, id, self._config)
    write_json(path, {'tracker': self._name, 'id': client.id})
    return client

  def _drop(self, reason: str):
    if self._name:
      say(f'config.train.tracker={self._name}: {sanitize(reason.splitlines()[0])}; training goes on without it')
      self._name = ''


def read_id(path: pathlib.Path, name: str) -> str | None:
  """The id in W/tracker.json of a run in the tracker `name`; None without one."""
  with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
    stored = json.loads(files.read_text(path))
    if stored['tracker'] == name and re.fullmatch(r'[\w.-]{1,128}', stored['id']):
      return stored['id']
  return None
