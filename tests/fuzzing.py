"""Mutations of valid files, and a watch over what a reader of them does."""

import collections
import contextlib
import copy
import json
import os
import pathlib
import resource
import sys
import time

from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st

from dmtl_jax.basics.errors import is_plain, UserError

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', 0))  # per reader; 0: the few of the suite, always the same
MEMORY = 1 << 30  # bytes a reader may take for files of a few kilobytes
SECONDS = 10
JUNK = (
    None, True, -1, 0, 0.5, 10**400, 1e308, float('nan'), float('inf'), '', 'x' * 300, '\ud800', '\0', '\n\x1b[2J',
    '../../x', '/etc/passwd', [], {}, [[[[]]]], {'a': {'b': None}}, ['semseg', 3], 2**63, -(2**31), '__class__',
)  # fmt: skip
INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 100_000, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS = [number.to_bytes(4, order) for number in INTEGERS for order in ('little', 'big')]


def run(few: int, inputs, accepts):
  """Tries `few` inputs, or FUZZ_EXAMPLES others: some must be read and some refused, or mutations are too weak or strong."""
  outcomes = collections.Counter()

  @settings(
    max_examples=EXAMPLES or few,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
  )
  @given(inputs)
  def body(data):
    outcomes[accepts(data)] += 1

  body()
  print(f'{outcomes.total()} inputs: {dict(outcomes)}')
  assert set(outcomes) == {True, False}


@st.composite
def files(draw, *seeds: bytes):
  """A valid file with one to four edits: bytes replaced, inserted, cut, flipped, repeated or copied from elsewhere."""
  data = draw(st.sampled_from(seeds))
  for _ in range(draw(st.integers(1, 4))):
    start, other = (draw(positions) % (len(data) + 1) for _ in range(2))
    length = draw(st.integers(1, 64))
    flipped = bytes(byte ^ 1 << length % 8 for byte in data[start : start + 1])
    moves = st.sampled_from(
      [(b'', length), (b'', len(data)), (flipped, 1), (data[start : start + length], 0), (data[other : other + 16], 16)]
    )
    bytes_ = st.tuples(st.binary(min_size=1, max_size=8), st.integers(0, 4))
    numbers = st.tuples(st.sampled_from(NUMBERS), st.just(4))
    new, replaced = draw(st.one_of(bytes_, numbers, moves, moves))
    data = data[:start] + new + data[start + replaced :]
  return data


positions = st.integers(0, 1 << 20)


@st.composite
def trees(draw, *seeds):
  """A JSON value, parts of which are replaced, dropped, doubled, renamed, or put deeper."""
  tree = {'root': copy.deepcopy(draw(st.sampled_from(seeds)))}
  for _ in range(draw(st.integers(1, 4))):
    places = list(_places(tree))
    holder, key = places[draw(positions) % len(places)]
    action = draw(st.sampled_from(['replace', 'replace', 'drop', 'double', 'rename', 'wrap']))
    if action == 'replace':
      holder[key] = copy.deepcopy(draw(st.sampled_from(JUNK)))
    elif action == 'wrap':
      holder[key] = [holder[key]]
    elif action == 'double' and isinstance(holder, list):
      holder.append(copy.deepcopy(holder[key]))
    elif action == 'drop' and holder is not tree:
      del holder[key]
    elif action == 'rename' and isinstance(holder, dict) and holder is not tree:
      holder[str(draw(st.sampled_from(JUNK)))] = holder.pop(key)
  return tree['root']


def _places(node):
  for key in list(node) if isinstance(node, dict) else range(len(node)):
    yield node, key
    if isinstance(node[key], (dict, list)):
      yield from _places(node[key])


def as_json(*seeds):
  """JSON files with mutated values, mutated bytes, or no end."""
  whole = [json.dumps(seed, indent=1).encode() for seed in seeds]
  endless = st.sampled_from([b'[' * 100_000, b'9' * 5000, b'{"a": 1e999999}', b'\xff\xfe', b'\xef\xbb\xbf{}', b''])
  return st.one_of(trees(*seeds).map(lambda tree: json.dumps(tree).encode()), files(*whole), endless)


# --- Watching --------------------------------------------------------------------------------

_watched: list[pathlib.Path] = []  # the folder that may be written to, while a reader runs
_seen: list[str] = []
_RUNS_CODE = {
    'os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'os.forkpty', 'subprocess.Popen', 'pickle.find_class',
    'socket.connect', 'ctypes.dlopen', 'pty.spawn', 'webbrowser.open', 'code.__new__',
}  # fmt: skip
_WRITES = {  # event: which of its arguments is the path
    'os.mkdir': 0, 'os.remove': 0, 'os.rmdir': 0, 'os.rename': 1, 'os.link': 1, 'os.symlink': 1, 'os.truncate': 0,
    'os.chmod': 0, 'os.chown': 0, 'shutil.rmtree': 0, 'os.mkfifo': 0, 'os.mknod': 0,
}  # fmt: skip


def _audit(event, args):
  if not _watched:
    return
  if event in _RUNS_CODE:
    _seen.append(f'{event} {args}')
  path = args[_WRITES[event]] if event in _WRITES else None
  if event == 'open' and isinstance(args[0], (str, bytes)):
    writes = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    path = args[0] if writes or (args[1] and set(args[1]) & set('wax+')) else None
  if isinstance(path, (str, bytes)) and os.fsdecode(path) != os.devnull:
    real = os.path.realpath(os.fsdecode(path))
    if not pathlib.Path(real).is_relative_to(_watched[-1].resolve()):
      _seen.append(f'{event} {path!r}')


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched(folder: pathlib.Path):
  """Fails where the block runs code, writes outside `folder`, or takes MEMORY or SECONDS."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  before = resource.getrlimit(resource.RLIMIT_AS)
  resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
  _seen.clear()
  _watched.append(folder)
  start = time.monotonic()
  try:
    yield
  finally:
    _watched.pop()
    resource.setrlimit(resource.RLIMIT_AS, before)
  assert not _seen, list(_seen)
  assert time.monotonic() - start < SECONDS


def accepts(read, path: pathlib.Path, *names: str) -> bool:
  """Whether `read(path)` reads; else it must refuse in one sentence that names the file, or one of `names`."""
  try:
    with watched(path.parent):
      read(path)
    return True
  except UserError as error:
    text = str(error)
    assert is_plain(text), ascii(text)
    assert len(text) < 1500, ascii(text)
    assert any(name in text for name in (path.name, *names)), text
    return False
