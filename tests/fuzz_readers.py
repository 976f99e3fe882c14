"""Fuzzes the readers of other people's files by coverage, for minutes or hours outside the suite.

  pip install atheris
  python -m tests.fuzz_readers [READER] [-max_total_time=SECONDS]      all readers, as often as READERS says

(other flags of libFuzzer as well).

Each input must be read, or refused in one sentence, without running code, writing elsewhere, or taking much memory
or time (`fuzzing.accepts`). libFuzzer keeps what reaches new code of ours, of NumPy's headers and of SciPy, and mutates
that; a failure stops it and is written to ./crash-*. What it has found is in tests/basics/test_hostile.py.
"""

import pathlib
import subprocess
import sys
import tempfile

import atheris
import jax  # noqa: F401 (before the block: not instrumented)
import orbax.checkpoint  # noqa: F401
import tensorflow_datasets  # noqa: F401

with atheris.instrument_imports(include=['dmtl_jax', 'numpy.lib', 'scipy.io.matlab']):
  from dmtl_jax.basics import progress
  from tests.readers import READERS

FOLDER = pathlib.Path(tempfile.mkdtemp(dir='/dev/shm' if pathlib.Path('/dev/shm').is_dir() else None))


def main(*args: str):
  flags = [arg for arg in args if arg.startswith('-')]
  names = [arg for arg in args if arg not in flags]
  if not names:
    for name, reader in READERS.items():
      if reader.many:
        command = [sys.executable, '-m', 'tests.fuzz_readers', name, *flags]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        print(f'{name}: {done.stderr.strip().splitlines()[-1]} (status {done.returncode})', flush=True)
    return
  progress.silent = True
  reader = READERS[names[0]]
  corpus = FOLDER / 'corpus'
  corpus.mkdir()
  for number, seed in enumerate(reader.seeds):
    (corpus / str(number)).write_bytes(seed)
  flags = [f'-runs={reader.many}', '-max_len=6000', '-timeout=20', '-rss_limit_mb=6000', *flags, str(corpus)]
  atheris.Setup([sys.argv[0], *flags], lambda data: reader.accepts(FOLDER, data) and None)
  atheris.Fuzz()


if __name__ == '__main__':
  main(*sys.argv[1:])
