"""Coverage-guided fuzzing of the readers of other people's files, for hours or minutes outside the suite.

  pip install atheris
  python -m tests.fuzz_readers [READER] [-max_total_time=SECONDS]      all readers, as often as READERS says

(other flags of libFuzzer as well).

Each input must be read, or refused in one sentence, without running code, writing elsewhere, or taking much memory
or time (`fuzzing.told`). libFuzzer keeps what reaches new code of ours, of NumPy's headers and of SciPy, and mutates
that; a failure stops it and is written to ./crash-*. What it has found is in tests/basics/test_hostile.py.
"""

import io
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import atheris
import jax  # noqa: F401 (before the block: not instrumented)
import orbax.checkpoint as ocp
import scipy.io
import tensorflow_datasets  # noqa: F401

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # as pytest does

with atheris.instrument_imports(include=['dmtl_jax', 'numpy.lib', 'scipy.io.matlab']):
  from dmtl_jax.basics import download, files, torch_file
  from dmtl_jax.basics.errors import UserError
  from dmtl_jax.configs import common
  from dmtl_jax.datasets import folder
  from dmtl_jax.datasets.pascal import labels as pascal
  from dmtl_jax.runs import checkpoints, pretrained
import numpy as np
import safetensors.numpy

from tests import fuzzing
from tests.basics import test_torch_file
from tests.whole import test_fuzz, test_fuzz_runs

FOLDER = pathlib.Path(tempfile.mkdtemp(dir='/dev/shm' if pathlib.Path('/dev/shm').is_dir() else None))


def of_file(read, name: str, write=pathlib.Path.write_bytes):
  """bytes -> whether they are read, as the content of a file."""
  path = FOLDER / name

  def check(data: bytes):
    write(path, data)
    return fuzzing.told(read, path, 'checkpoints')

  return check


def in_zip(path: pathlib.Path, program: bytes):
  """A .pth whose pickle is the input: of a mutated zip hardly any gets past its sums."""
  test_torch_file.write_program(path, program, test_torch_file.checkpoint()[1])


def told(read):
  """A reader that raises ValueError raises UserError."""

  def reading(path):
    try:
      read(path)
    except ValueError as error:
      raise UserError(f'{path}: {error}') from error

  return reading


def weights(path):
  views = {'conv.weight': [np.zeros((2, 3), np.float32)], 'conv.bias': [np.zeros(2, np.float32)]}
  pretrained.fill(views, pretrained.read_state(path), path)


def unpack(path):
  download.Progress = test_fuzz.Silent
  download.extract(path, FOLDER / 'out')


def without_results(path: pathlib.Path, data: bytes):
  for left in ('out', 'out.incomplete'):
    shutil.rmtree(FOLDER / left, ignore_errors=True)
  path.write_bytes(data)


def config_string(path):
  common.parse(path.read_bytes().decode(errors='surrogateescape'))


def meta_of_a_checkpoint():
  """Reads what is in the place of the meta of a real checkpoint."""
  with ocp.CheckpointManager(FOLDER / 'checkpoints') as manager:
    manager.save(0, args=ocp.args.Composite(meta=ocp.args.JsonSave(META)))
  run = checkpoints.Checkpoints(FOLDER, read_only=True)
  write = lambda path, data: (FOLDER / 'checkpoints/0/meta/metadata').write_bytes(data)
  return of_file(lambda _: run.meta(0), 'metadata', write)


def saved(save, *args) -> bytes:
  stream = io.BytesIO()
  save(stream, *args)
  return stream.getvalue()


def written(write, *args) -> bytes:
  return write(FOLDER / 'seed', *args).read_bytes()


META = {'format': 2, 'config': {}, 'evaluated': 4, 'window': {}, 'best': {'step': 0, 'scores': {'depth': 1.0}},
        'crc32': {'variables': 1}, 'data': {'next_index': 4}}  # fmt: skip
MAPPING = {'img0': ['semseg', 'depth'], 'img1': []}
CSVS = [b'image,tasks\nimg0,semseg;depth\nimg1,\n', b'image,semseg,depth\nimg0,1,0\n"img1",0,1\n']
PROGRAMS = [test_torch_file.pickled(content) for content in (test_torch_file.checkpoint()[0], test_fuzz.weights()[0])]
PROGRAMS.append(test_fuzz.mapping_program())
WHOLE = [written(write, *content) for write in (test_torch_file.write_zip, test_torch_file.write_legacy)
         for content in (test_torch_file.checkpoint(), test_fuzz.weights())]  # fmt: skip
TENSORS = {'conv.weight': np.ones((2, 3), np.float32), 'module.conv.bias': np.zeros(2, np.float16)}
MAPS = {'LabelMap': np.array([[0, 3], [454, 1]], np.uint16)}
# Reader: (number of inputs, the check of one, seeds).
READERS = {
  'pickle in .pth': (130_000, lambda: of_file(torch_file.load, 'x.pth', in_zip), PROGRAMS),
  'whole .pth': (100_000, lambda: of_file(torch_file.load, 'x.pth'), WHOLE),
  'mapping in .pth': (80_000, lambda: of_file(test_fuzz.load_mapping, 'x.pth', in_zip), PROGRAMS),
  'mapping .csv': (100_000, lambda: of_file(test_fuzz.load_mapping, 'm.csv'), CSVS),
  'mapping .json': (100_000, lambda: of_file(test_fuzz.load_mapping, 'm.json'), [json.dumps(MAPPING).encode()]),
  'dataset.json': (
    130_000, lambda: of_file(folder.read_description, 'dataset.json'), [json.dumps(test_fuzz.DESCRIPTION).encode()],
  ),
  '.safetensors': (100_000, lambda: of_file(weights, 'x.safetensors'), [safetensors.numpy.save(TENSORS)]),
  '.npy': (100_000, lambda: of_file(told(files.read_npy), 'x.npy'), [saved(np.save, np.eye(3))]),
  '.mat': (
    80_000, lambda: of_file(pascal.read_label_map, 'x.mat'),
    [saved(lambda stream: scipy.io.savemat(stream, MAPS, do_compression=zipped)) for zipped in (False, True)],
  ),
  'archive': (
    30_000, lambda: of_file(unpack, 'archive', without_results),
    [test_fuzz_runs.tar(test_fuzz_runs.PLAIN), test_fuzz_runs.zipped(test_fuzz_runs.PLAIN[::2])],
  ),
  'config string': (
    100_000, lambda: of_file(told(config_string), 'config'), [b'method=feature,labels=one,steps=3,preset=released'],
  ),
  'meta of a checkpoint': (20_000, meta_of_a_checkpoint, [json.dumps(META).encode()]),
}  # fmt: skip


def main(*args: str):
  flags = [arg for arg in args if arg.startswith('-')]
  names = [arg for arg in args if arg not in flags]
  if not names:
    for name in READERS:
      done = subprocess.run(
        [sys.executable, '-m', 'tests.fuzz_readers', name, *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      )
      print(f'{name}: {done.stderr.strip().splitlines()[-1]} (status {done.returncode})', flush=True)
    return
  runs, check, seeds = READERS[names[0]]
  corpus, check = FOLDER / 'corpus', check()
  corpus.mkdir()
  for number, seed in enumerate(seeds):
    (corpus / str(number)).write_bytes(seed)
  flags = [f'-runs={runs}', '-max_len=6000', '-timeout=20', '-rss_limit_mb=6000', *flags, str(corpus)]
  atheris.Setup([sys.argv[0], *flags], lambda data: check(data) and None)
  atheris.Fuzz()


if __name__ == '__main__':
  main(*sys.argv[1:])
