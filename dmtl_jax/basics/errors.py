"""The error a user can mend, and how its sentence is put."""

from collections.abc import Iterable, Sequence
import contextlib
import difflib
import os
import re
import sys
import traceback
import unicodedata


class UserError(ValueError):
  """Bad input or configuration. The message says in one sentence what is wrong, where, and what to do.

  The command line prints only that sentence and exits with status 1. Every other exception is a
  defect of the program and keeps its traceback.

  Attributes:
    parts: all problems, if the sentence names only the first of many; else empty.

  Example:
    >>> try:
    ...   dmtl_jax.load('runs/nothing')
    ... except dmtl_jax.UserError as error:
    ...   print(error)
  """

  def __init__(self, sentence: str, parts: Sequence[str] = ()):
    super().__init__(sentence)
    self.parts = parts


def print_error(error: BaseException):
  """Prints a UserError's sentence, of any other error its traceback."""
  with contextlib.suppress(OSError, ValueError):  # nobody can be told: the exit status says it
    if isinstance(error, UserError):
      lines = [sanitize(line, 10_000) for line in str(error).split('\n')]  # a file's words must not move the cursor
      print('Error:', '\n'.join(lines), file=sys.stderr, flush=True)
    else:
      traceback.print_exception(error)


def sanitize(text: str, most: int = 200) -> str:
  """Text out of a file, fit for a message: one line, nothing that moves a terminal's cursor, not too long."""
  escaped = ''.join(c if is_plain(c) else ascii(c)[1:-1] for c in text[:most])
  return escaped if len(text) <= most else f'{escaped}...'


def is_plain(text: str) -> bool:
  """Whether text is without control characters, line breaks and halves of characters (bytes not in UTF-8)."""
  return not any(unicodedata.category(c) in ('Cc', 'Cs', 'Zl', 'Zp') for c in text)


def listed(names: Sequence[object], most: int = 3) -> str:
  """'a, b, c and 12 more'."""
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return ', '.join(map(str, names[:most])) + more


def check_local(where: str, path: str, schemes: Sequence[str] = ()):
  """Raises UserError for an address like gs://bucket, of which `pathlib` would make a folder gs: here.

  Args:
    where: flag or field; begins the sentence.
    schemes: of addresses that are understood there.
  """
  match = re.match(r'([A-Za-z][A-Za-z0-9+.-]*)://', path)
  if match and match[1].lower() not in schemes:
    raise UserError(
      f"{where}: '{sanitize(path)}' is an address, and {match[1]}:// is not supported there; "
      f'give a path of this machine, where it may be mounted'
    )


def program() -> str:
  """How to call the command line from here: by main.py in a checkout, elsewhere by the script that is installed."""
  return 'python main.py' if os.path.isfile('main.py') else 'dmtl'


def closest(text: str, known: Iterable[str]) -> str:
  """Of the known words the one most like `text`."""
  return difflib.get_close_matches(text, list(known), 1, 0)[0]


def unknown_value_error(where: str, text: str, known: Iterable[str]) -> UserError:
  """That a text is none of the known words, with all of them and the closest."""
  known = list(known)
  return UserError(f"{where}: '{sanitize(text)}' is none of {', '.join(known)}; did you mean {closest(text, known)}?")
