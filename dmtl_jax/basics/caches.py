"""Where what can be made again is kept between two commands."""

import os
import pathlib

from absl import logging


def folder() -> pathlib.Path | None:
  """The user's folder for caches of this project; None, with a warning, where there is none that can be written.

  It is not looked for in a temporary folder: there others could put programs that we would run.
  """
  home, given = os.path.expanduser('~'), os.environ.get('XDG_CACHE_HOME')
  path = pathlib.Path(given or os.path.join(home, '.cache'), 'dmtl_jax')
  try:
    if not (given or os.path.isabs(home)):
      raise FileNotFoundError(None, 'no home folder')
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
      raise PermissionError(None, 'no permission')
  except OSError as error:
    what = f'not a folder for caches ({error.strerror}), so all is compiled and checked anew'
    logging.log_first_n(logging.WARNING, '%s', 1, f'{path}: {what}; set XDG_CACHE_HOME to one')
    return None
  return path
