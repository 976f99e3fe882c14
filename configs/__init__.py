"""One config a data set: `get_config(arg)` gives the whole description of a run."""

import os
import pathlib

from dmtl_jax.basics.errors import closest, sanitize, UserError

OURS = {
  path.stem: path
  for path in pathlib.Path(__file__).parent.glob('*.py')
  if '\ndef get_config(' in path.read_text(encoding='utf-8')
}


def find(text: str) -> str:
  """The config string with the path of a file: the one it names, or else ours of that name.

  Args:
    text: 'configs/scenes.py', 'configs/scenes', 'scenes' or any file; after a colon arguments, which stay.

  Raises:
    UserError: neither; tells the closest of ours.
  """
  path, colon, arguments = text.partition(':')
  name = pathlib.PurePath(path).stem
  for file in (path, f'{path}.py', OURS.get(name, '')):
    if os.path.isfile(file):
      return f'{file}{colon}{arguments}'
  raise UserError(
    f'--config={sanitize(path)}: no such file; did you mean {closest(name, OURS)}, of {", ".join(sorted(OURS))}?'
  )
