"""The smallest hostile inputs that once crashed, hung, took gigabytes or reached beyond their folder (see test_fuzz.py)."""

from collections.abc import Callable
import gzip
import json
import os
import pathlib
import pickle
import re
import struct
import tarfile
from typing import NamedTuple
import zlib

import numpy as np
import pytest
import scipy.io

from dmtl_jax.basics import download, files, torch_file
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import label_settings
from dmtl_jax.datasets import folder, mtan
from dmtl_jax.datasets.folder import label_files
from dmtl_jax.datasets.folder.cache import Cache
from dmtl_jax.datasets.pascal import labels as pascal
from dmtl_jax.report import reading
from dmtl_jax.runs import workdir
from dmtl_jax.runs.log import Log
from tests import fuzzing
from tests.archives import Item, link, tar, zipped
from tests.readers import encoded, LABEL, load_mapping, open_folder, pattern, refusing, saved, TASKS, write_folder
from tests.torch_writer import write_program


class Case(NamedTuple):
  file: str  # below a temporary folder
  read: Callable[[pathlib.Path], object]
  words: str  # a regular expression that the refusal matches
  content: bytes | Callable[[pathlib.Path], object]  # or what makes the file


CASES: list[Case] = []


def hostile(file: str, read, words: str, *contents):
  """Adds a case for each content of the file."""
  CASES.extend(Case(file, read, words, content) for content in contents)


# --- Arrays ----------------------------------------------------------------------------------


def npy(shape, body: bytes = b'') -> bytes:
  text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b'\n'
  return b'\x93NUMPY\x01\0' + struct.pack('<H', len(text)) + text + body


NPZ = saved(np.savez, a=np.zeros(3))
hostile(
  'a.npy',
  refusing(files.read_npy),
  'not a readable .npy',
  npy((10**5, 10**5), b'12345678'),  # more than the file has
  npy((-1, -1)),
  npy((2**70, 2**70)),
  npy((0, 2**70)),  # nothing at all, very wide
  NPZ,
  encoded(np.array([['a']]), 'npy'),
  encoded(np.ones((5, 8), complex), 'npy'),
  encoded(np.zeros((5, 8), 'M8[s]'), 'npy'),  # dates
  b'\x93NUMPY\x01\0' + struct.pack('<H', 9000) + b'-' * 9000,  # a nested header
)
hostile('0.npy', lambda path: mtan.read(path, 3), '0.npy', npy((10**5, 10**5, 3)), npy((0, 6, 3)), NPZ)
for value in ('text', np.zeros((0, 0)), np.zeros((2, 2, 2)), np.zeros((1, 1), object), {'a': 1}):
  hostile('a.mat', pascal.read_label_map, 'LabelMap is', saved(scipy.io.savemat, {'LabelMap': value}))


# --- What is no file; folder data sets -------------------------------------------------------


def pipe(path):
  os.mkfifo(path)  # nobody writes to it, so reading it would wait for ever


def device(path):
  path.symlink_to('/dev/zero')


def dangling(path):
  path.symlink_to('nowhere')


def terabyte(path):
  path.touch()
  os.truncate(path, 1 << 40)


def read_tasks(path):
  workdir.read_tasks(path.parent)


def read_config(path):
  workdir.read_config(path.parent)


def open_log(path):
  Log(path.parent, 0, 0)


def open_data(path):
  open_folder(next(parent for parent in path.parents if parent.name == 'data'))


for file, read in [
  ('config.json', read_config),
  ('tasks.json', read_tasks),
  ('log.jsonl', reading.read_curves),
  ('metrics.json', files.read_json),
  ('labels.csv', load_mapping),
]:
  hostile(file, read, f'{file}: .*a pipe or a device', pipe, device)
  hostile(file, read, f'{file}: .*more than', terabyte)
hostile('log.jsonl', open_log, 'log.jsonl: cannot be read .*a pipe or a device', pipe, device)
hostile('log.jsonl', open_log, 'log.jsonl: cannot be read .*more than', terabyte)
hostile('x.pth', torch_file.load, 'not a file', pipe)
hostile('data/train/images/b.png', open_data, 'b.png.*not a file', pipe, dangling)
hostile('data/dataset.json', open_data, 'dataset.json: no such file', pipe)


def png(width: int, height: int) -> bytes:
  """A PNG of 70 bytes that claims to be large."""
  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  chunks = {b'IHDR': header, b'IDAT': zlib.compress(b'\0' * 99), b'IEND': b''}
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    for kind, data in chunks.items()
  )


POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n(x) print\nshowpage\n%%EOF\n'
IMAGES = png(100_000, 100_000), png(13_000, 13_000), png(2**31, 1), POSTSCRIPT, b''
hostile('data/train/labels/semseg/a.png', open_data, 'labels/semseg/a.png.*not a readable image', *IMAGES)
hostile('data/train/images/a.png', open_data, 'images/a.png.*not a readable image', *IMAGES)
for name in ('b\n.png', os.fsdecode(b'b\xff.png'), 'b\x1b[2J.png'):
  shown = name.encode('unicode_escape').decode()
  image = encoded(pattern(np.uint8, 9, 3), 'png')
  hostile(f'data/train/images/{name}', open_data, f'{re.escape(shown)}.*control characters.*rename', image)


def description(**fields) -> bytes:
  return json.dumps({'tasks': {'depth': fields}}).encode()


read = folder.read_description
hostile('dataset.json', read, 'dataset.json.*"scale"', description(scale=10**400), description(scale=1e-300))
hostile('dataset.json', read, 'dataset.json.*"kind"', description(kind=['depth']))
hostile('dataset.json', read, 'dataset.json.*"classes"', description(classes=['\ud800', 'b']))
hostile('dataset.json', read, 'dataset.json', b'9' * 5000, b'[' * 100_000)
hostile('dataset.json', read, 'dataset.json', b'{"tasks": {"x' + b'x' * 300 + b'": {"kind": "depth"}}}')


# --- Mappings and PyTorch files --------------------------------------------------------------

hostile('m.csv', load_mapping, 'm.csv: not a CSV file', b'image,tasks\nimg0,' + b'x' * 200_000)
hostile('m.csv', load_mapping, 'm.csv: not a CSV file in UTF-8', b'image,tasks\nimg\xff,depth\n')
hostile('m.csv', load_mapping, 'm.csv.*each once', b'image,depth,depth\nimg0,1,0\n')
hostile('m.csv', load_mapping, 'm.csv.*must start with a line image,tasks', b'\nA')
hostile('m.json', load_mapping, 'm.json: not JSON', b'9' * 5000)
hostile('m.json', load_mapping, r"m.json.*e.g. '\\n'", b'{"\\n": []}')


def program(*instructions: bytes) -> bytes:
  """A .pth with these instructions for a pickle."""
  return saved(write_program, b'\x80\x02' + b''.join(instructions) + b'.')


def laughs(levels: int = 40) -> bytes:
  """A dict with a list of lists of lists ... of 2^levels items at the memo's index `levels`, in a few bytes each."""
  lists = b''.join(b'](h%ch%ceq%c' % (i, i, i + 1) for i in range(levels))
  return b'}X\x01\0\0\0a(](NNeq\0' + lists + b'ts'


LAUGHS, DEEP = laughs(), b'h\x28'  # gets that list
SIZED = b'ctorch\nSize\nq\x01'
ENCODE = b'c_codecs\nencode\nq\x01X\x06\0\0\0latin1q\x02'
LONG_LIST = b'](' + b'N' * 50_000 + b'eq\0'
LONG_TEXT = b'X\x50\xc3\0\0' + b'x' * 50_000 + b'q\0'
NESTED = b'N' + b'\x85' * 300_000
hostile(
  'x.pth',
  load_mapping,
  'x.pth',
  program(LAUGHS, b'X\x0e\0\0\0labels_weights', DEEP, b's'),  # a table in endless many places
  program(LAUGHS, b'X\x04\0\0\0img0', DEEP, b's'),  # flags as many
  program(LAUGHS, DEEP, b'X\x01\0\0\0a\x93'),  # a name of them
  program(LAUGHS, b'ctorch._utils\n_rebuild_tensor_v2\n(NK\x01', DEEP, DEEP, b'tR'),
  program(LONG_LIST, SIZED, b'h\x01h\0\x85R' * 20_000),  # one list copied over and over
  program(LONG_TEXT, ENCODE, b'h\x01h\0h\x02\x86R' * 40_000),  # one text encoded over and over
  program(b'c_codecs\nencode\nK\x01X\x06\0\0\0latin1\x86R'),  # an encoded number
  program(b'}\x8b', struct.pack('<i', 5000), b'\x01' * 5000, b'Ns'),  # a number as long as a book for a key
  program(b'}K\x01]s'),  # a number for an image
)
hostile('x.pth', torch_file.load, 'tuple for a key', program(b'}', NESTED, b'Ns'))  # its hash() would crash Python
hostile('x.pth', torch_file.load, 'numpy dtype', program(b'cnumpy\ndtype\nX\x0b\x00\x00\x00U9999999999\x85R'))
hostile('x.pth', torch_file.load, 'gives a state to a str', program(b'ccollections\nOrderedDict\n}b'))
hostile('x.pth', torch_file.load, 'instruction EXT1', program(b'\x82\x01'))
hostile('x.pth', torch_file.load, 'instruction INST', program(b'(ios\nsystem\n'))
hostile(
  'x.pth',
  torch_file.load,
  'damaged',
  program(NESTED, b')R'),
  program(NESTED, b'Q'),
  program(b'\x8d' + b'\xff' * 7 + b'\x3f'),  # a string of 2^62 bytes
  program(b'ccollections\nOrderedDict\nN\x8c\x08__dict__Nsb'),
  saved(write_program, b'\x80\x02]'),
  saved(write_program, b''),
)
NO_ARCHIVES = b'', b'<html>404</html>', b'PK\x03\x04', pickle.dumps({'a': 1}), b'\x80\x02'
hostile('x.pth', torch_file.load, 'x.pth.* (is not a PyTorch file|damaged)', *NO_ARCHIVES)


# --- Names of files; runs --------------------------------------------------------------------


def config(**fields) -> bytes:
  return json.dumps(fields).encode()


hostile('train.txt', pascal.read_ids, 'which is not an id', b'../../x', b'/etc/passwd', b'a/b', b'..')
for name in ('../../x', '/etc/x', 'a/b', '', 'a b', 'x' * 300):
  tasks = [{'name': name, 'kind': 'depth', 'classes': []}]
  hostile('tasks.json', read_tasks, 'tasks.json.*a name consists of at most 64 letters', json.dumps(tasks).encode())
SIZES = config(data={'size': [10**6, 10**6]}), config(data={'size': 'ab'})
hostile('config.json', read_config, 'config.json.*data.size must be height and width', *SIZES)
hostile('config.json', read_config, 'model.width must be a whole number from 1 to 1024', config(model={'width': 10**9}))
hostile('config.json', read_config, 'config.json.*optim must be a section', config(optim=None))
hostile('config.json', read_config, "config.json.*'items' is not a field", config(items=1))
hostile('config.json', read_config, "config.json.*'a.b' is not a field", b'{"a.b": 1}')
hostile('config.json', read_config, 'config.json.*not a config', b'[]')


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """The user's cache folder."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('case', CASES, ids=lambda case: ascii(f'{case.file}: {case.words[-40:]}'))
def test_a_hostile_file_is_refused_in_one_line(case, tmp_path):
  """In time, without much memory, without code run or files written."""
  path = tmp_path / case.file
  if case.read is open_data:
    write_folder(tmp_path / 'data', LABEL)
    path.unlink(missing_ok=True)
  if callable(case.content):
    case.content(path)
  else:
    path.write_bytes(case.content)
  with pytest.raises(UserError, match=case.words) as refusal, fuzzing.watched(tmp_path):
    case.read(path)
  assert '\n' not in str(refusal.value)


class Payload:
  """Makes a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_pickles_are_not_unpickled(tmp_path):
  payload = Payload(tmp_path / 'executed')
  for name, array in (('object', np.array([payload], object)), ('field', np.array([(payload,)], [('a', object)]))):
    with open(tmp_path / f'{name}.npy', 'wb') as file:
      np.lib.format.write_array(file, array, allow_pickle=True)
    with pytest.raises(ValueError):
      files.read_npy(tmp_path / f'{name}.npy')
  for name in ('x.pth', 'x.pth.tar', 'm.pt'):
    (tmp_path / name).write_bytes(pickle.dumps({'model': payload}))
    with pytest.raises(UserError):
      torch_file.load(tmp_path / name)
    write_program(tmp_path / name, pickle.dumps({'img0': payload}, 2))
    with pytest.raises(UserError, match='mkdir.*neither a tensor nor a plain container'):
      load_mapping(tmp_path / name)
  assert not (tmp_path / 'executed').exists()
  pickle.loads(pickle.dumps(payload))  # the payload works
  assert (tmp_path / 'executed').exists()


def test_a_pickle_with_a_far_index_takes_no_memory_for_it(tmp_path):
  """CPython's unpickler allocates 32 GB for this memo index."""
  write_program(tmp_path / 'x.pth', b'\x80\x02]r\xff\xff\xff\x7f.')
  with fuzzing.watched(tmp_path):
    assert torch_file.load(tmp_path / 'x.pth') == []


def test_numbers_beyond_float32_are_unlabelled(tmp_path):
  tasks = {task.name: task for task in TASKS}

  def read(task, array):
    np.save(tmp_path / 'a.npy', array)
    return label_files.read_label(tmp_path / 'a.npy', tasks[task], {})

  array = np.full((2, 3, 3), 1e300)
  array[0] = 1e30, 0, 0  # no unit vector either
  np.testing.assert_array_equal(read('normals', array)[:, 0], 0)
  np.testing.assert_array_equal(read('depth', array[..., 0])[:, 0, 0], np.array([1e30, 0], np.float32))
  with pytest.raises(ValueError, match='class id -1'):
    read('semseg', np.array([[0, 2, -1]], np.int8))


def test_a_damaged_cache_of_checks_is_made_anew(tmp_path, cache):
  write_folder(tmp_path / 'data', LABEL)
  open_folder(tmp_path / 'data')
  (file,) = cache.rglob('*.sqlite')
  for damage in (b'{', file.read_bytes()[:5000]):
    file.write_bytes(damage)
    open_folder(tmp_path / 'data')
    assert [(row.id, json.loads(row.result)['problems']) for row in Cache(tmp_path / 'data/train').rows()] == [
      ('a', [])
    ]


class Nothing:
  official, label_mask, ids, tasks = {}, None, (), ()


def test_a_setting_as_long_as_a_book_is_cut_short():
  with pytest.raises(UserError, match='is none of full, one, random, a file; did you mean') as refusal:
    label_settings.apply_labels(Nothing, 'x' * 5000)
  assert len(str(refusal.value)) < 500


def test_a_file_numbered_beyond_all_others(tmp_path):
  for split in mtan.SPLITS:
    (tmp_path / split / 'image').mkdir(parents=True)
    (tmp_path / split / 'image/0.npy').touch()
  (tmp_path / 'train/image/99999999999.npy').touch()
  with pytest.raises(UserError, match='numbered 99999999999'), fuzzing.watched(tmp_path):
    mtan.ids(tmp_path, ['image'])


def test_a_matlab_bomb(tmp_path, monkeypatch):
  monkeypatch.setattr(pascal, 'MAT_BYTES', 1 << 22)
  bomb = zlib.compress(bytes(5 << 20))
  header = saved(scipy.io.savemat, {'LabelMap': np.zeros((2, 2))})[:128]
  (tmp_path / 'a.mat').write_bytes(header + struct.pack('<II', pascal.MAT_COMPRESSED, len(bomb)) + bomb)
  with pytest.raises(UserError, match='unpacks to more than 4 MB'), fuzzing.watched(tmp_path):
    pascal.read_label_map(tmp_path / 'a.mat')


# --- Archives --------------------------------------------------------------------------------


def encrypted() -> bytes:
  """A zip archive whose file says that it is."""
  data = bytearray(zipped([Item('a')]))
  for place in (6, data.index(b'PK\x01\x02') + 8):
    data[place] |= 1
  return bytes(data)


def long_name() -> bytes:
  """A tar file whose first header says that a name of 1 GB follows."""
  info = tarfile.TarInfo('././@LongLink')
  info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
  return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))


def sparse() -> bytes:
  """A tar file of an empty file that says it is 1 GB of holes."""
  info = tarfile.TarInfo('a')
  info.type = tarfile.GNUTYPE_SPARSE
  header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
  header[483:495] = b'%011o\0' % (1 << 30)
  header[148:156] = b' ' * 8
  header[148:156] = b'%06o\0 ' % sum(header)
  return bytes(header) + bytes(1024)


ARCHIVES = {
  'a file below a file': (tar([Item('a'), Item('a/b')]), 'cannot be unpacked'),
  'a name too long': (tar([Item('x' * 300)]), 'cannot be unpacked'),
  'a link up': (tar([link('a', '..'), Item('a/b')]), 'outside the folder'),
  'a link to a link up': (tar([link('d/a', 'x/../..')]), 'outside the folder'),
  'a link elsewhere': (tar([link('a', '/etc'), Item('a/passwd')]), 'refused to unpack'),
  'a hard link up': (tar([link('a', '../../victim', tarfile.LNKTYPE)]), 'outside the folder'),
  'a device': (tar([link('null', '', tarfile.CHRTYPE)]), 'refused'),
  'a loop of links': (tar([link('a', 'a'), Item('a/b')]), 'archive'),
  'a bomb in gzip': (gzip.compress(tar([Item('a', bytes(100 << 20))], 'w'), 9), 'times its size'),
  'a bomb in zip': (zipped([Item('a', bytes(100 << 20))]), 'times its size'),
  'a bomb of holes': (sparse(), 'times its size'),
  'an endless name': (long_name(), 'times its size'),
  'an encrypted file': (encrypted(), 'damaged or cut short'),
}
ARCHIVES |= {
  f'{name} in {write.__name__}': (write([Item('fine.txt'), Item(name)]), 'outside the folder')
  for name in ('../../victim', '/tmp/dmtl_evil.txt', 'a/../../../victim')
  for write in (tar, zipped)
}


@pytest.mark.parametrize('name', ARCHIVES)
def test_archives(tmp_path, name):
  data, words = ARCHIVES[name]
  (tmp_path / 'victim').write_text('mine')
  (tmp_path / 'archive').write_bytes(data)
  with pytest.raises(UserError, match=f'archive.*{words}') as refusal, fuzzing.watched(tmp_path):
    download.extract(tmp_path / 'archive', tmp_path / 'to/out')
  assert '\n' not in str(refusal.value)
  assert (tmp_path / 'victim').read_text() == 'mine'
  assert not (tmp_path / 'to/out').exists()
  assert {path.name for path in tmp_path.iterdir()} <= {'victim', 'archive', 'to'}
