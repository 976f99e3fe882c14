"""What the fuzz tests share: mutations of valid files, and a watch over what a reader does meanwhile."""

import contextlib
import copy
import json
import os
import pathlib
import resource
import sys
import time

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dmtl_jax.basics.errors import is_plain, UserError

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', 0))  # a reader; 0: the few of the suite, always the same
MEMORY = 1 << 30  # bytes a reader may take for files of a few kilobytes
SECONDS = 10
JUNK = (
    None, True, -1, 0, 0.5, 10**400, 1e308, float('nan'), float('inf'), '', 'x' * 300, '\ud800', '\0', '\n\x1b[2J',
    '../../x', '/etc/passwd', [], {}, [[[[]]]], {'a': {'b': None}}, ['semseg', 3], 2**63, -(2**31), '__class__',
)  # fmt: skip
INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 100_000, 2**31 - 1, 2**31, 2**32 - 1)


def fuzz(few: int):
  """Settings of a test: `few` inputs in the suite, FUZZ_EXAMPLES others where that is set."""
  return settings(
    max_examples=EXAMPLES or few,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
  )


positions = st.integers(0, 1 << 20)
edits = st.lists(
  st.tuples(
    positions,
    st.one_of(
      st.tuples(st.just('set'), st.binary(min_size=1, max_size=4)),
      st.tuples(st.just('flip'), st.integers(0, 7)),
      st.tuples(st.just('cut'), st.integers(1, 64)),
      st.tuples(st.just('insert'), st.binary(min_size=1, max_size=8)),
      st.tuples(st.just('repeat'), st.integers(1, 64)),
      st.tuples(st.just('end'), st.none()),
      st.tuples(st.just('little'), st.sampled_from(INTEGERS)),
      st.tuples(st.just('big'), st.sampled_from(INTEGERS)),
      st.tuples(st.just('splice'), positions),
    ),
  ),
  min_size=1,
  max_size=4,
)


def edited(data: bytes, changes) -> bytes:
  """Bytes with some edits (`edits`)."""
  data = bytearray(data)
  for position, (what, value) in changes:
    i = position % (len(data) + 1)
    if what == 'set':
      data[i : i + len(value)] = value
    elif what == 'flip' and i < len(data):
      data[i] ^= 1 << value
    elif what == 'cut':
      del data[i : i + value]
    elif what == 'insert':
      data[i:i] = value
    elif what == 'repeat':
      data[i:i] = data[i : i + value]
    elif what == 'end':
      del data[i:]
    elif what in ('little', 'big'):
      data[i : i + 4] = value.to_bytes(4, what)
    elif what == 'splice':
      j = value % (len(data) + 1)
      data[i : i + 16] = data[j : j + 16]
  return bytes(data)


def files(*seeds: bytes):
  """Mutations of valid files."""
  return st.builds(edited, st.sampled_from(seeds), edits)


@st.composite
def trees(draw, *seeds):
  """Mutations of JSON values: parts replaced, dropped, doubled, renamed, or put deeper."""
  tree = {'root': copy.deepcopy(draw(st.sampled_from(seeds)))}
  for _ in range(draw(st.integers(1, 3))):
    places = list(_places(tree))
    holder, key = places[draw(positions) % len(places)]
    action = draw(st.sampled_from(['replace', 'replace', 'drop', 'double', 'rename', 'wrap']))
    if action == 'replace':
      holder[key] = copy.deepcopy(draw(st.sampled_from(JUNK)))
    elif action == 'drop' and holder is not tree:
      del holder[key]
    elif action == 'double' and isinstance(holder, list):
      holder.append(copy.deepcopy(holder[key]))
    elif action == 'rename' and isinstance(holder, dict) and holder is not tree:
      holder[str(draw(st.sampled_from(JUNK)))] = holder.pop(key)
    elif action == 'wrap':
      holder[key] = [holder[key]]
  return tree['root']


def _places(node):
  for key in list(node) if isinstance(node, dict) else range(len(node)):
    yield node, key
    if isinstance(node[key], (dict, list)):
      yield from _places(node[key])


def as_json(*seeds):
  """Bytes of JSON files: mutated values, and files with mutated bytes."""
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
_WRITES = {
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


def told(read, path: pathlib.Path, *names: str) -> bool:
  """Whether `read(path)` reads; else it says why in one sentence that names the file (or one of `names`)."""
  try:
    with watched(path.parent):
      read(path)
    return True
  except UserError as error:
    text = str(error)
    assert is_plain(text) and len(text) < 1500, ascii(text)
    assert any(name in text for name in (path.name, *names)), text
    return False
