"""The user's cache folder, for what can be made again."""

import os
import pathlib

from absl import logging


def folder() -> pathlib.Path | None:
  """The user's cache folder for this project; None, with a warning, if it cannot be written.

  Never a temporary folder: others could put programs there, which we would run.
  """
  home = os.path.expanduser('~')
  cache_home = os.environ.get('XDG_CACHE_HOME')
  path = pathlib.Path(cache_home or os.path.join(home, '.cache'), 'dmtl_jax')
  try:
    if not (cache_home or os.path.isabs(home)):
      raise FileNotFoundError(None, 'no home folder')
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
      raise PermissionError(None, 'no permission')
  except OSError as error:
    problem = f'not a folder for caches ({error.strerror}), so nothing is cached between starts'
    logging.log_first_n(logging.WARNING, '%s', 1, f'{path}: {problem}; set XDG_CACHE_HOME to one')
    return None
  return path
