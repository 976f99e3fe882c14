"""The error that a user can fix, and helpers to phrase it."""

from collections.abc import Iterable, Sequence
import contextlib
import difflib
import numbers
import os
import re
import sys
import traceback
import unicodedata

aliases: dict[str, str] = {}  # {local folder: the address that it is a copy of, which messages name}


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
  """Prints the sentence of a UserError, or the traceback of any other error."""
  with contextlib.suppress(OSError, ValueError):  # if stderr is closed, only the exit status reports it
    if isinstance(error, UserError):
      lines = [
        sanitize(line, 10_000) for line in name_addresses(str(error)).split('\n')
      ]  # text from a file must not move the cursor
      print('Error:', '\n'.join(lines), file=sys.stderr, flush=True)
    else:
      traceback.print_exception(error)


def name_addresses(text: str) -> str:
  """The text with addresses in place of the local copies of what lies there."""
  for folder, address in aliases.items():
    text = text.replace(folder, address)
  return text


def sanitize(text: str, limit: int = 200) -> str:
  """Makes text from a file fit for a message: one line, at most `limit` characters, none that moves the cursor."""
  escaped = ''.join(c if is_plain(c) else ascii(c)[1:-1] for c in text[:limit])
  return escaped if len(text) <= limit else f'{escaped}...'


def is_plain(text: str) -> bool:
  """Whether text has no control characters, line breaks or surrogates (bytes that are not UTF-8)."""
  return text.isprintable() or not any(unicodedata.category(c) in ('Cc', 'Cs', 'Zl', 'Zp') for c in text)


def join_names(names: Sequence[object], limit: int = 3) -> str:
  """'a, b, c and 12 more'."""
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(map(str, names[:limit])) + more


def check_local(where: str, path: str, schemes: Sequence[str] = ()):
  """Raises UserError for an address like gs://bucket, which `pathlib` would turn into a local folder gs:.

  Args:
    where: flag or field; begins the sentence.
    schemes: of addresses that are supported there.
  """
  match = re.match(r'([A-Za-z][A-Za-z0-9+.-]*)://', path)
  if match and match[1] not in schemes:  # GS:// is none: we only know gs://
    raise UserError(
      f"{where}: '{sanitize(path)}' is an address, and {match[1]}:// is not supported there; give "
      + (f'{" or ".join(f"{scheme}://..." for scheme in schemes)}, or ' if schemes else '')
      + 'a path of this machine, where it may be mounted'
    )


def check_count(where: str, count: object, what: str):
  """Raises UserError unless a count is a whole number (of Python or NumPy), 1 or more.

  Args:
    where: flag or argument; begins the sentence.
    what: the things that are counted, in the plural.
  """
  if isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < 1:
    raise UserError(f'{where}={sanitize(str(count))}: give the number of {what}, a whole number from 1')


def program() -> str:
  """The command to run from here: main.py in a checkout, otherwise the installed script."""
  return 'python main.py' if os.path.isfile('main.py') else 'dmtl'


def closest(text: str, known: Iterable[str]) -> str:
  """The known word most similar to `text`."""
  return difflib.get_close_matches(text, list(known), 1, 0)[0]


def unknown_value_error(where: str, text: str, known: Iterable[str]) -> UserError:
  """The error for a text that is none of the known words; lists them and suggests the closest."""
  known = list(known)
  return UserError(f"{where}: '{sanitize(text)}' is none of {', '.join(known)}; did you mean {closest(text, known)}?")
