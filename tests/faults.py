"""Kills a small run again and again, goes on by the same command, and compares it with one never killed.

  python tests/faults.py --kills=40 [--seed=0] [--only=time|event|term] [--processes=2] [--longest=5]

A life ends by SIGKILL after a random time, or at a random one of Python's file operations in the workdir
(audit events: open, mkdir, rename, remove, ...), in whichever thread it happens. Of several processes that train
together one is killed, which the others must notice and tell within NOTICED seconds, or all; or one gets a
SIGTERM, after which all save and leave (not among the kills). A run has up to `longest` such lives.

Compared bit for bit: parameters, optimiser state and all else in every checkpoint left, metrics.json but
for times, per_image.csv, log.jsonl, what TensorBoard shows, panels, and the names of all files, the report's too.

Each life is a fork of a process that has imported everything and not yet started JAX; the network is a
toy, so that a life takes seconds. Everything else is the command line's own path.
"""

import json
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
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS = 6
FIELDS = {
  **{'data.size': (16, 24), 'data.tasks': ('semseg', 'depth'), 'optim.warmup': 0},
  **{'train.batch': 2, 'train.steps': STEPS, 'train.eval_every': 4, 'train.save_every': 2, 'train.log_every': 3},
  **{'eval.batch': 3, 'eval.panels': 1},
}
COMMAND = [
  '--config=configs/folder.py:method=mtl_baseline,labels=one',
  *(f'--config.{k}={v}' for k, v in FIELDS.items()),
]
NOTICED = 10  # seconds, on a busy machine
EVENTS = ('open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.truncate', 'os.chmod', 'shutil.rmtree')


def start(data, workdir, kill_at: int = 0, count_to: pathlib.Path | None = None, join: str = '') -> int:
  """Forks a life of the run, or one process of it; returns its pid.

  Args:
    kill_at: the file operation at which it kills itself; 0: none.
    count_to: a file for the number of file operations of the life.
    join: --distributed, for one of several processes.
  """
  warnings.simplefilter('ignore')  # JAX fears for its threads; it has none yet
  pid = os.fork()
  if pid:
    return pid
  status = 1
  try:
    log = os.open(f'{workdir}.out', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    seen = _watch(str(workdir), kill_at)
    status = _main(data, workdir, *([f'--distributed={join}', '--config.eval.panels=0'] if join else []))
    if count_to:
      count_to.write_text(str(len(seen)))
  except BaseException:
    traceback.print_exc()
  finally:
    os._exit(status)


def _watch(workdir: str, kill_at: int) -> list[str]:
  """Records the file operations in the workdir from now on, and kills this process at one."""
  seen = []

  def hook(event, args):
    if event in EVENTS and args and isinstance(args[0], (str, os.PathLike)) and os.fspath(args[0]).startswith(workdir):
      seen.append(event)
      if len(seen) == kill_at:
        os.write(1, f'\nkilled at {event} {args[0]}\n'.encode())
        os.kill(os.getpid(), signal.SIGKILL)

  sys.addaudithook(hook)
  return seen


def _main(data, workdir, *flags: str) -> int:
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

  on_devices, calls = setup.Training.on_devices, []

  def counted(self, batch):
    calls.append(1)
    if len(calls) == number:
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


def start_all(data, workdir, processes: int, kill_at: dict[int, int], count_to: list[pathlib.Path] | None = None):
  """`start` of each process of a run, with its own `kill_at` and `count_to`."""
  port = free_port()
  joins = [f'localhost:{port},{processes},{n}' if processes > 1 else '' for n in range(processes)]
  return [
    start(data, workdir, kill_at.get(n, 0), count_to[n] if count_to else None, join) for n, join in enumerate(joins)
  ]


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
  """The JSON value of a function run in a process of its own: this one must not start JAX."""
  read, write = os.pipe()
  pid = os.fork()
  if not pid:
    try:
      with os.fdopen(write, 'w') as f:
        json.dump(function(*args), f)
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(0)
  os.close(write)
  with os.fdopen(read) as f:
    text = f.read()
  os.waitpid(pid, 0)
  return json.loads(text)


def content(workdir: pathlib.Path) -> dict:
  """What a finished run left, as JSON values, without times."""
  names = sorted(str(p.relative_to(workdir)) for p in workdir.rglob('*') if p.is_file())
  own = [n for n in names if not n.startswith(('checkpoints/', 'tensorboard/'))]
  same = [n for n in own if not n.startswith(('metrics.json', 'report.'))]  # the report names the workdir
  files = {n: (workdir / n).read_bytes().hex() for n in same}
  metrics = json.loads((workdir / 'metrics.json').read_text())
  metrics.pop('seconds_per_image')
  return {
    'names': own,
    'files': files,
    'metrics': metrics,
    'board': board(workdir / 'tensorboard'),
    'entries': sorted(p.name for p in (workdir / 'checkpoints').iterdir()),
    'checkpoints': {p.name: checkpoint(p) for p in sorted((workdir / 'checkpoints').iterdir())},
  }


def checkpoint(path: pathlib.Path) -> dict:
  """The items of a checkpoint as JSON values: arrays in hexadecimal."""
  import jax
  import numpy as np
  import orbax.checkpoint as ocp

  arrays, reader = {}, ocp.StandardCheckpointer()
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # not the devices of the processes that wrote it
  placed = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
  for item in ('variables', 'optimizer'):
    stored = path.resolve() / item
    tree = reader.restore(stored, jax.tree.map(placed, reader.metadata(stored).item_metadata.tree))
    for key, x in jax.tree_util.tree_leaves_with_path(tree):
      arrays[item + jax.tree_util.keystr(key)] = np.asarray(x).tobytes().hex()
  meta = json.loads((path / 'meta' / 'metadata').read_text())
  meta['config']['data'].pop('path')
  return {'step': int(tree['step']), 'arrays': arrays, 'meta': meta}


def board(folder: pathlib.Path) -> dict:
  """{'tag step': value or picture} as TensorBoard shows them: what a restart declares void is dropped."""
  from tensorboardX.proto.event_pb2 import Event

  shown = {}
  for path in sorted(folder.iterdir()):
    for record in records(path.read_bytes()):
      event = Event.FromString(record)
      if event.HasField('session_log'):
        shown = {key: value for key, value in shown.items() if key[1] < event.step}
      for value in event.summary.value:
        assert (value.tag, event.step) not in shown, 'shown twice'
        shown[value.tag, event.step] = value.image.encoded_image_string.hex() or repr(value.simple_value)
  return {f'{tag} {step}': value for (tag, step), value in shown.items()}


def records(data: bytes):
  """The whole records of an event file; the last may be cut."""
  at = 0
  while at + 12 <= len(data):
    (length,) = struct.unpack_from('<Q', data, at)
    if at + 16 + length > len(data):
      return
    yield data[at + 12 : at + 12 + length]
    at += 16 + length


def differences(a, b, where='') -> list[str]:
  """Paths in two nested values at which they differ."""
  if isinstance(a, dict) and isinstance(b, dict):
    return [d for key in sorted(a.keys() | b.keys()) for d in differences(a.get(key), b.get(key), f'{where}/{key}')]
  return [] if a == b else [f'{where}: {str(a)[:80]} != {str(b)[:80]}']


class Trial:
  """A folder with data, and the run that was never killed."""

  def __init__(self, folder: pathlib.Path, timed: bool, processes: int = 1):
    import toy

    self.folder, self.data, self.processes = folder, folder / 'data', processes
    toy.write(self.data, size=(16, 24))
    reference, counted = folder / 'reference', [folder / f'events{n}' for n in range(processes)]
    for _ in range(1 + timed):  # the first one compiles
      shutil.rmtree(reference, ignore_errors=True)
      began = time.monotonic()
      results = wait(start_all(self.data, reference, processes, {}, counted))
      assert not any(results), (folder / 'reference.out').read_text()
    self.seconds, self.events = time.monotonic() - began, [int(path.read_text()) for path in counted]
    self.expected = in_fork(content, reference)
    self.runs = 0

  def run(self, lives: list[tuple[str, float, tuple[int, ...]]]) -> int:
    """One run to its end through lives; returns the kills.

    Args:
      lives: (what, when, the processes it befalls); what: 'time' or 'event', a kill, or 'term', the signal; when:
        the share of a life's seconds, or of a process's file operations, that it lasts, from 0 to 1.

    Raises:
      AssertionError: it failed, or differs from the run that was never killed.
    """
    self.runs += 1
    workdir, kills = self.folder / f'run{self.runs}', 0
    output = pathlib.Path(f'{workdir}.out')
    for kind, share, whom in [*lives, ('event', 0, ())]:
      output.unlink(missing_ok=True)
      kill_at = {n: 1 + int(share * self.events[n]) for n in whom if kind == 'event'}
      pids = start_all(self.data, workdir, self.processes, kill_at)
      if kind != 'event':
        number = signal.SIGTERM if kind == 'term' else signal.SIGKILL
        self._signal([pids[n] for n in whom], share * self.seconds, number, output)
      results, printed = wait(pids), output.read_text()
      kills += (killed := results.count('killed'))
      told = printed.count('ended before the work was done, so this one ends too; run the same command again')
      # Where the first process dies, JAX's own client may end another before that has told why: by SIGABRT, or (0.7) by 1.
      ended = printed.count('because the JAX distributed service detected fatal errors') * (results[0] == 'killed')
      ends = ({'killed', 1} if killed else {0}) | ({-signal.SIGABRT} if ended else set())
      assert set(results) <= ends, f'{lives}: {results}\n{printed}'
      assert told <= results.count(1) <= told + ended and 'Traceback' not in printed, f'{lives}: {results}\n{printed}'
    found, expected = in_fork(content, workdir), self.expected
    if any(kind == 'term' for kind, *_ in lives):  # which saves at a step of its own
      found, expected = last(found), last(expected)
    different = differences(expected, found)
    assert not different, f'{lives}:\n' + '\n'.join(different[:20]) + printed
    shutil.rmtree(workdir)
    return kills

  def _signal(self, pids: list[int], seconds: float, number: int, output: pathlib.Path):
    """Sends a signal after so many seconds of this life, but not before its processes have joined."""
    time.sleep(seconds)
    while self.processes > 1 and '[Gloo]' not in (output.read_text() if output.exists() else ''):
      time.sleep(0.05)
    for pid in pids:
      os.kill(pid, number)


def last(run: dict) -> dict:
  """What `content` gives, with the last checkpoint alone."""
  return run | {'checkpoints': run['checkpoints'][run['entries'][-1]], 'entries': []}


def imports():
  """Everything a life needs but a started JAX."""
  sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]
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


def main(kills: int = 40, seed: int = 0, only: str = '', processes: int = 1, longest: int = 5):
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
        whom = rng.choice(victims[:processes] if kind == 'term' else victims)
        lives.append((kind, rng.random(), whom))
      done += trial.run(lives)
      print(f'{done} kills in {trial.runs} runs, all ended with the same bits', flush=True)


if __name__ == '__main__':
  main(**{k: type({'only': ''}.get(k, 0))(v) for k, v in (a.removeprefix('--').split('=') for a in sys.argv[1:])})
