"""Kills a small run again and again, resumes it by the same command, and compares it with one never killed.

  python -m tests.faults --kills=40 [--seed=0] [--only=time|event|term] [--processes=2] [--longest=5]

A life ends by SIGKILL after a random time, or at a random one of Python's file operations in the workdir
(audit events: open, mkdir, rename, remove, ...), in whichever thread it happens. Of several processes that train
together one is killed, which the others must notice and report within NOTICED seconds, or all; or one gets a
SIGTERM, after which all save and leave (not counted as a kill). A run has up to `longest` such lives.

Compared bit for bit: parameters, optimiser state and all else in every checkpoint left, metrics.json but
for times, per_image.csv, log.jsonl, what TensorBoard shows, panels, and the names of all files, the report's too.

Each life is a fork of a process that has imported everything and not yet started JAX; the network is a
toy, so that a life takes seconds. Everything else is the command line's own path.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from typing import NamedTuple
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMAND = [
  '--config=configs/folder.py:method=mtl_baseline,labels=one',
  *('--config.data.size=(16, 24)', "--config.data.tasks=('semseg', 'depth')", '--config.optim.warmup=0'),
  *('--config.train.batch=2', '--config.train.steps=6', '--config.train.eval_every=4', '--config.train.save_every=2'),
  *('--config.train.log_every=3', '--config.eval.batch=3', '--config.eval.panels=1'),
]
NOTICED = 10  # seconds, on a busy machine
EVENTS = ('open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.truncate', 'os.chmod', 'shutil.rmtree')


def start(data, workdir, processes: int, kill_at: dict[int, int]) -> list[int]:
  """Forks the processes of a life of the run; returns their pids.

  Args:
    kill_at: {process: the file operation at which it kills itself}.
  """
  warnings.simplefilter('ignore')  # JAX fears for its threads; it has none yet
  port, pids = free_port(), []
  for n in range(processes):
    pid = os.fork()
    if not pid:
      join = [f'--distributed=localhost:{port},{processes},{n}', '--config.eval.panels=0'] if processes > 1 else []
      _live(data, workdir, n, kill_at.get(n, 0), join)
    pids.append(pid)
  return pids


def _live(data, workdir, number: int, kill_at: int, flags: list[str]):
  """Trains in this process and ends it; the number of its file operations is left beside the workdir."""
  status = 1
  try:
    log = os.open(f'{workdir}.out', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    events = _watch(str(workdir), kill_at)
    status = main(data, workdir, *flags)
    pathlib.Path(f'{workdir}.events{number}').write_text(str(len(events)))
  except BaseException:
    traceback.print_exc()
  finally:
    os._exit(status)


def _watch(workdir: str, kill_at: int) -> list[str]:
  """Lists the file operations in the workdir from now on, and kills this process at one."""
  events = []

  def hook(event, args):
    if event in EVENTS and args and isinstance(args[0], (str, os.PathLike)) and os.fspath(args[0]).startswith(workdir):
      events.append(event)
      if len(events) == kill_at:
        os.write(1, f'\nkilled at {event} {args[0]}\n'.encode())
        die()

  sys.addaudithook(hook)
  return events


def main(data, workdir, *flags: str) -> int:
  """Trains the toy by the command line; returns its exit status."""
  from dmtl_jax import cli

  use_toy_model()
  os.chdir(ROOT)
  flags = (*COMMAND, f'--config.data.path={data}', f'--workdir={workdir}', *flags)
  sys.argv = ['main.py', *flags]  # ml_collections looks here
  return cli.main(sys.argv)


def use_toy_model(setattr=setattr):
  """From now on a run trains the toy, whatever its config says."""
  from dmtl_jax.inference import prediction
  from dmtl_jax.jobs import evaluate
  from dmtl_jax.training import setup

  for module in (setup, evaluate, prediction):
    setattr(module, 'build_model', toy_model)


def toy_model(config, tasks):
  from flax import linen as nn

  from dmtl_jax.models import Network, Output

  class Toy(Network):
    """Two convolutions and a BatchNorm, for everything that training keeps of a network."""

    @nn.compact
    def __call__(self, images, *, train=False, **_):
      x = nn.Conv(8, (3, 3), strides=8)(images)
      x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
      return Output(final={task.name: nn.Conv(task.channels, (3, 3), name=task.name)(x) for task in self.tasks})

  return Toy(tasks)


def at_batch(monkeypatch, number: int, function, *args):
  """Calls a function when batch `number` of a life in this process goes to the devices."""
  from dmtl_jax.training import setup

  on_devices = setup.Training.on_devices
  batches = itertools.count(1)

  def counted(self, batch):
    if next(batches) == number:
      function(*args)
    return on_devices(self, batch)

  monkeypatch.setattr(setup.Training, 'on_devices', counted)


def die(*_):
  """Ends this process as the system does where memory runs out."""
  os.kill(os.getpid(), signal.SIGKILL)


def free_port() -> int:
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


def wait(pids: list[int]) -> list[int | str]:
  """Exit status of each process of a life, or 'killed'; after a kill all must end within NOTICED seconds."""
  results = {}
  while len(results) < len(pids):
    for pid in set(pids) - results.keys():
      done, status = os.waitpid(pid, os.WNOHANG)
      if done:
        results[pid] = os.waitstatus_to_exitcode(status)
    if -signal.SIGKILL not in results.values():
      killed = time.monotonic()
    assert time.monotonic() - killed < NOTICED, f'{results}: the others of {pids} did not notice'
    time.sleep(0.01)
  return ['killed' if results[pid] == -signal.SIGKILL else results[pid] for pid in pids]


def in_fork(function, *args):
  """What a function returns in a process of its own: this one must not start JAX."""
  with multiprocessing.get_context('fork').Pool(1) as pool:
    return pool.apply(function, args)


def content(workdir: pathlib.Path) -> dict:
  """What a finished run left, without times."""
  names = sorted(str(p.relative_to(workdir)) for p in workdir.rglob('*') if p.is_file())
  own = [n for n in names if not n.startswith(('checkpoints/', 'tensorboard/'))]
  same = [n for n in own if not n.startswith(('metrics.json', 'report.'))]  # the report names the workdir
  metrics = json.loads((workdir / 'metrics.json').read_text())
  metrics.pop('seconds_per_image')
  checkpoints = sorted((workdir / 'checkpoints').iterdir())
  return {
    'names': own,
    'files': {n: (workdir / n).read_bytes() for n in same},
    'metrics': metrics,
    'board': board(workdir / 'tensorboard'),
    'entries': [path.name for path in checkpoints],
    'checkpoints': {path.name: checkpoint(path) for path in checkpoints},
  }


def checkpoint(path: pathlib.Path) -> dict:
  """The items of a checkpoint, arrays as bytes."""
  import jax
  import numpy as np
  import orbax.checkpoint as ocp

  reader = ocp.StandardCheckpointer()
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # not the devices of the processes that wrote it

  def restore(item):
    stored = path.resolve() / item
    shapes = reader.metadata(stored).item_metadata.tree
    return reader.restore(stored, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes))

  trees = {item: restore(item) for item in ('variables', 'optimizer')}
  leaves = jax.tree_util.tree_leaves_with_path(trees)
  meta = json.loads((path / 'meta' / 'metadata').read_text())
  meta['config']['data'].pop('path')
  return {
    'step': int(trees['optimizer']['step']),
    'arrays': {jax.tree_util.keystr(key): np.asarray(x).tobytes() for key, x in leaves},
    'meta': meta,
  }


def board(folder: pathlib.Path) -> dict:
  """{(tag, step): value or picture} as TensorBoard shows them: without what a restart declares void."""
  from tensorboardX.proto.event_pb2 import Event

  shown = {}
  for path in sorted(folder.iterdir()):
    for event in map(Event.FromString, records(path.read_bytes())):
      if event.HasField('session_log'):
        shown = {(tag, step): value for (tag, step), value in shown.items() if step < event.step}
      for value in event.summary.value:
        assert (value.tag, event.step) not in shown, 'shown twice'
        shown[value.tag, event.step] = value.image.encoded_image_string or value.simple_value
  return shown


def records(data: bytes):
  """The whole records of an event file; the last may be cut."""
  start = 0
  while start + 12 <= len(data):
    (length,) = struct.unpack_from('<Q', data, start)
    if start + 16 + length > len(data):
      return
    yield data[start + 12 : start + 12 + length]
    start += 16 + length


def last(run: dict) -> dict:
  """What `content` returns, with only the last checkpoint."""
  return run | {'checkpoints': run['checkpoints'][max(run['entries'], key=int)], 'entries': []}


def differences(a, b, where='') -> list[str]:
  """Paths in two nested values at which they differ."""
  if isinstance(a, dict) and isinstance(b, dict):
    return [d for key in sorted(a.keys() | b.keys()) for d in differences(a.get(key), b.get(key), f'{where}/{key}')]
  return [] if a == b else [f'{where}: {str(a)[:80]} != {str(b)[:80]}']


class Life(NamedTuple):
  """How a life ends.

  Attributes:
    kind: 'time' or 'event', a kill, or 'term', the signal.
    share: of a life's seconds, or of a process's file operations, that it lasts, from 0 to 1.
    victims: the processes that it ends.
  """

  kind: str
  share: float
  victims: tuple[int, ...]


class Trial:
  """A folder with data, and the run that was never killed."""

  def __init__(self, folder: pathlib.Path, timed: bool, processes: int = 1):
    from tests import toy

    self.folder, self.data, self.processes = folder, folder / 'data', processes
    toy.write(self.data, size=(16, 24))
    reference = folder / 'reference'
    for _ in range(1 + timed):  # the first one compiles
      shutil.rmtree(reference, ignore_errors=True)
      began = time.monotonic()
      results = wait(start(self.data, reference, processes, {}))
      assert not any(results), (folder / 'reference.out').read_text()
    self.seconds = time.monotonic() - began
    self.events = [int((folder / f'reference.events{n}').read_text()) for n in range(processes)]
    self.expected = in_fork(content, reference)
    self.runs = 0

  def run(self, lives: list[Life]) -> int:
    """One run to its end through lives; returns the kills.

    Raises:
      AssertionError: it failed, or differs from the run that was never killed.
    """
    self.runs += 1
    workdir = self.folder / f'run{self.runs}'
    kills = sum(self._run_life(workdir, life) for life in [*lives, Life('event', 0, ())])
    result, expected = in_fork(content, workdir), self.expected
    if any(life.kind == 'term' for life in lives):  # which saves at a step of its own
      result, expected = last(result), last(expected)
    different = differences(expected, result)
    assert not different, '\n'.join([f'{lives}:', *different[:20], pathlib.Path(f'{workdir}.out').read_text()])
    shutil.rmtree(workdir)
    return kills

  def _run_life(self, workdir: pathlib.Path, life: Life) -> int:
    """One life, and whether it ended as it should; returns how many of its processes were killed."""
    output = pathlib.Path(f'{workdir}.out')
    output.unlink(missing_ok=True)
    kill_at = {n: 1 + int(life.share * self.events[n]) for n in life.victims if life.kind == 'event'}
    pids = start(self.data, workdir, self.processes, kill_at)
    if life.kind != 'event':
      time.sleep(life.share * self.seconds)
      while self.processes > 1 and '[Gloo]' not in (output.read_text() if output.exists() else ''):
        time.sleep(0.05)  # until its processes have joined
      for n in life.victims:
        os.kill(pids[n], signal.SIGTERM if life.kind == 'term' else signal.SIGKILL)
    results, printed = wait(pids), output.read_text()
    killed = results.count('killed')
    reported = printed.count('ended before the work was done, so this one ends too; run the same command again')
    # Where the first process dies, JAX's own client may end another before that has said why: by SIGABRT, or (0.7) by 1.
    aborted = printed.count('because the JAX distributed service detected fatal errors') * (results[0] == 'killed')
    allowed = ({'killed', 1} if killed else {0}) | ({-signal.SIGABRT} if aborted else set())
    assert set(results) <= allowed, f'{life}: {results}\n{printed}'
    assert reported <= results.count(1) <= reported + aborted, f'{life}: {results}\n{printed}'
    assert 'Traceback' not in printed, f'{life}: {results}\n{printed}'
    return killed


def imports():
  """Everything a life needs but a started JAX."""
  sys.path.insert(0, str(ROOT))
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true')
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(tempfile.gettempdir(), 'dmtl_jax_test_cache'))
  from absl import logging

  logging.set_verbosity(logging.ERROR)
  from dmtl_jax import cli  # noqa: F401
  from dmtl_jax.basics import peers  # noqa: F401
  from dmtl_jax.configs import folder  # noqa: F401
  from dmtl_jax.inference import evaluation  # noqa: F401
  from dmtl_jax.jobs import train  # noqa: F401


def kill_runs(kills: int, seed: int, only: str, processes: int, longest: int):
  """Runs through random lives until there were so many kills."""
  imports()
  rng = random.Random(seed)
  with tempfile.TemporaryDirectory() as folder:
    trial = Trial(pathlib.Path(folder), only != 'event', processes)
    print(f'a life takes {trial.seconds:.1f} s and {" and ".join(map(str, trial.events))} file operations', flush=True)
    victims = [(n,) for n in range(processes)] + ([tuple(range(processes))] if processes > 1 else [])
    done = 0
    while done < kills:
      lives = []
      for _ in range(rng.randint(1, min(longest, kills - done))):
        kind = only or rng.choice(('time', 'event') * 3 + ('term',) * (processes > 1))
        ended = rng.choice(victims[:processes] if kind == 'term' else victims)
        lives.append(Life(kind, rng.random(), ended))
      done += trial.run(lives)
      print(f'{done} kills in {trial.runs} runs, all ended with the same bits', flush=True)


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  for flag, default in {'kills': 40, 'seed': 0, 'only': '', 'processes': 1, 'longest': 5}.items():
    parser.add_argument(f'--{flag}', type=type(default), default=default)
  kill_runs(**vars(parser.parse_args()))
