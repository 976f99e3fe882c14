"""The smallest hostile inputs that once crashed, hung, took gigabytes or reached beyond their folder (test_fuzz.py)."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import scipy.io

from dmtl_jax.basics import download, files, torch_file
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import label_settings
from dmtl_jax.datasets import folder, mtan
from dmtl_jax.datasets.pascal import labels as pascal
from dmtl_jax.report import results
from dmtl_jax.runs import workdir
from dmtl_jax.runs.log import Log
from dmtl_jax.tasks import make_task
from tests import fuzzing
from tests.archives import file, HARD, link, tar, zipped
from tests.basics import test_torch_file
from tests.readers import encoded, load_mapping, pattern, TASKS
from tests.whole.test_fuzz import LABEL, open_folder, write_folder


class Payload:
  """Makes a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def refused(read, path, *words):
  """Reading says why not, in time and without much memory."""
  with pytest.raises(UserError) as caught, fuzzing.watched(path.parent):
    read(path)
  text = str(caught.value)
  assert '\n' not in text and all(word in text for word in words), text


# --- Arrays and images -----------------------------------------------------------------------


def npy(shape, descr: str = '<f8', body: bytes = b'') -> bytes:
  text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b'\n'
  return b'\x93NUMPY\x01\0' + struct.pack('<H', len(text)) + text + body


def zipped_npy() -> bytes:
  stream = io.BytesIO()
  np.savez(stream, a=np.zeros(3))
  return stream.getvalue()


NPY = {
  'more than the file has': npy((10**5, 10**5), body=b'12345678'),
  'less than nothing': npy((-1, -1)),
  'more than a number': npy((2**70, 2**70)),
  'nothing at all, very wide': npy((0, 2**70)),
  'a zip archive': zipped_npy(),
  'text': encoded(np.array([['a']]), 'npy'),
  'complex numbers': encoded(np.ones((5, 8), complex), 'npy'),
  'dates': encoded(np.zeros((5, 8), 'M8[s]'), 'npy'),
  'a nested header': b'\x93NUMPY\x01\0' + struct.pack('<H', 9000) + b'-' * 9000,
}


@pytest.mark.parametrize('name', NPY)
def test_arrays(tmp_path, name):
  (tmp_path / 'a.npy').write_bytes(NPY[name])
  with pytest.raises(ValueError, match='not a readable .npy'), fuzzing.watched(tmp_path):
    files.read_npy(tmp_path / 'a.npy')


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
    with zipfile.ZipFile(tmp_path / name, 'w') as archive:
      archive.writestr('model/data.pkl', pickle.dumps({'img0': payload}, 2))
    refused(load_mapping, tmp_path / name, 'mkdir', 'neither a tensor nor a plain container')
  assert not (tmp_path / 'executed').exists()
  pickle.loads(pickle.dumps(payload))  # the payload works
  assert (tmp_path / 'executed').exists()


def chunk(kind: bytes, data: bytes) -> bytes:
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
  """A PNG of 70 bytes that claims to be large."""
  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0' * 99)) + chunk(b'IEND', b'')


POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n(x) print\nshowpage\n%%EOF\n'


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('data', [png(100_000, 100_000), png(13_000, 13_000), png(2**31, 1), POSTSCRIPT, b''])
def test_images(tmp_path, data):
  root = tmp_path / 'data'
  write_folder(root, data)
  refused(lambda _: open_folder(root), tmp_path / 'x', 'labels/semseg/a.png', 'not a readable image')
  (root / 'train/labels/semseg/a.png').write_bytes(LABEL)
  (root / 'train/images/a.png').write_bytes(data)
  refused(lambda _: open_folder(root), tmp_path / 'x', 'images/a.png', 'not a readable image')


def test_numbers_beyond_float32_are_unlabelled(tmp_path):
  task = {task.name: task for task in TASKS}
  array = np.full((2, 3, 3), 1e300)
  array[0] = 1e30, 0, 0  # no unit vector either
  np.save(tmp_path / 'a.npy', array)
  label = folder.read_label(tmp_path / 'a.npy', task['normals'], {})
  np.testing.assert_array_equal(label[:, 0], 0)
  np.save(tmp_path / 'a.npy', array[..., 0])
  label = folder.read_label(tmp_path / 'a.npy', task['depth'], {})
  np.testing.assert_array_equal(label[:, 0, 0], np.array([1e30, 0], np.float32))
  np.save(tmp_path / 'a.npy', np.array([[0, 2, -1]], np.int8))
  with pytest.raises(ValueError, match='class id -1'):
    folder.read_label(tmp_path / 'a.npy', task['semseg'], {})


@pytest.fixture
def root(tmp_path, monkeypatch):
  """A folder data set of one image with one label."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  write_folder(tmp_path / 'data', LABEL)
  return tmp_path / 'data'


@pytest.mark.parametrize(
  'name, words', [('b\n.png', 'b\\n.png'), (os.fsdecode(b'b\xff.png'), 'b\\udcff.png'), ('b\x1b[2J.png', 'b\\x1b[2J')]
)
def test_names_of_files(root, name, words):
  (root / 'train/images' / name).write_bytes(encoded(pattern(np.uint8, 9, 3), 'png'))
  refused(lambda _: open_folder(root), root, words, 'control characters', 'rename')


def test_what_is_no_file(root):
  place = root / 'train/images/b.png'
  place.symlink_to('nowhere')
  refused(lambda _: open_folder(root), root, 'b.png', 'not a file')
  place.unlink()
  os.mkfifo(place)  # reading it would wait for ever
  refused(lambda _: open_folder(root), root, 'b.png', 'not a file')
  refused(torch_file.load, place, 'not a file')
  place.unlink()
  (root / 'dataset.json').unlink()
  os.mkfifo(root / 'dataset.json')
  refused(lambda _: open_folder(root), root, 'dataset.json: no such file')


def pipe(path):
  os.mkfifo(path)  # nobody writes to it, so reading it would wait for ever


def device(path):
  path.symlink_to('/dev/zero')


def huge(path):
  path.touch()
  os.truncate(path, 1 << 40)


@pytest.mark.parametrize('make', [pipe, device, huge])
def test_what_is_no_text_file(tmp_path, make):
  """In the place of each file of a run that is read whole."""
  reads = {
    'config.json': workdir.read_config,
    'tasks.json': workdir.read_tasks,
    'log.jsonl': lambda path: results.read_curves(path / 'log.jsonl'),
    'metrics.json': lambda path: files.read_json(path / 'metrics.json'),
    'labels.csv': lambda path: load_mapping(path / 'labels.csv'),
  }
  words = 'more than' if make is huge else 'a pipe or a device'
  for name, read in reads.items():
    make(tmp_path / name)
    with pytest.raises(UserError, match=f'{name}: .*{words}'), fuzzing.watched(tmp_path):
      read(tmp_path)
  with pytest.raises(UserError, match=f'log.jsonl: cannot be read .*{words}'), fuzzing.watched(tmp_path):
    Log(tmp_path, 0, 0)


@pytest.mark.parametrize(
  'field, value, words',
  [
    ('scale', 10**400, '"scale"'),
    ('scale', 1e-300, '"scale"'),
    ('kind', ['depth'], '"kind"'),
    ('classes', ['\ud800', 'b'], '"classes"'),
  ],
)
def test_descriptions(tmp_path, field, value, words):
  path = tmp_path / 'dataset.json'
  path.write_text(json.dumps({'tasks': {'depth': {field: value}}}))
  refused(folder.read_description, path, 'dataset.json', words)


@pytest.mark.parametrize('text', ['9' * 5000, '[' * 100_000, '{"tasks": {"x' + 'x' * 300 + '": {"kind": "depth"}}}'])
def test_endless_descriptions(tmp_path, text):
  (tmp_path / 'dataset.json').write_text(text)
  refused(folder.read_description, tmp_path / 'dataset.json', 'dataset.json')


def test_a_damaged_cache_of_checks_is_made_anew(root):
  open_folder(root)
  (cache,) = (root.parent / 'cache').rglob('*.json')
  cache.write_text('{')
  open_folder(root)
  assert json.loads(cache.read_text()) == [[], '']


# --- Mappings and PyTorch files --------------------------------------------------------------


@pytest.mark.parametrize(
  'name, data, words',
  [
    ('m.csv', b'image,tasks\nimg0,' + b'x' * 200_000, 'not a CSV file'),
    ('m.csv', b'image,tasks\nimg\xff,depth\n', 'not a CSV file in UTF-8'),
    ('m.csv', b'image,depth,depth\nimg0,1,0\n', 'each once'),
    ('m.csv', b'\nA', 'needs a first line image,tasks'),
    ('m.json', b'9' * 5000, 'not JSON'),
    ('m.json', b'{"\\n": []}', "e.g. '\\n'"),
  ],
)
def test_mappings(tmp_path, name, data, words):
  (tmp_path / name).write_bytes(data)
  refused(load_mapping, tmp_path / name, name, words)


def test_a_setting_as_long_as_a_book_is_told(tmp_path):
  with pytest.raises(UserError, match='is none of full, one, random, a file; did you mean') as caught:
    label_settings.apply_labels(Nothing, 'x' * 5000)
  assert len(str(caught.value)) < 500


class Nothing:
  official, label_mask, ids, tasks = {}, None, (), ()


def laughs(levels: int = 40) -> bytes:
  """A dict with a list of lists of lists ... of 2^levels items at the memo's index `levels`, in a few bytes each."""
  lists = b''.join(b'](h%ch%ceq%c' % (i, i, i + 1) for i in range(levels))
  return b'}X\x01\0\0\0a(](NNeq\0' + lists + b'ts'


DEEP = b'h\x28'  # gets that list
SIZED = b'ctorch\nSize\nq\x01'
ENCODE = b'c_codecs\nencode\nq\x01X\x06\0\0\0latin1q\x02'
LONG_LIST = b'](' + b'N' * 50_000 + b'eq\0'
LONG_TEXT = b'X\x50\xc3\0\0' + b'x' * 50_000 + b'q\0'
PROGRAMS = {
    'a table in endless many places': laughs() + b'X\x0e\0\0\0labels_weights' + DEEP + b's',
    'flags in endless many places': laughs() + b'X\x04\0\0\0img0' + DEEP + b's',
    'a name of them': laughs() + DEEP + b'X\x01\0\0\0a\x93',
    'a tensor as large': laughs() + b'ctorch._utils\n_rebuild_tensor_v2\n(NK\x01' + DEEP + DEEP + b'tR',
    'one list copied over and over': LONG_LIST + SIZED + b'h\x01h\0\x85R' * 20_000,
    'one text encoded over and over': LONG_TEXT + ENCODE + b'h\x01h\0h\x02\x86R' * 40_000,
    'an encoded number': b'c_codecs\nencode\nK\x01X\x06\0\0\0latin1\x86R',
    'a number as long as a book for a key': b'}\x8b' + struct.pack('<i', 5000) + b'\x01' * 5000 + b'Ns',
    'a number for an image': b'}K\x01]s',
}  # fmt: skip


@pytest.mark.parametrize('name', PROGRAMS)
def test_pickles(tmp_path, name):
  path = tmp_path / 'x.pth'
  test_torch_file.write_program(path, b'\x80\x02' + PROGRAMS[name] + b'.', [])
  refused(load_mapping, path, 'x.pth')


# --- Raw benchmark files ---------------------------------------------------------------------


@pytest.mark.parametrize('id', ['../../x', '/etc/passwd', 'a/b', '..'])
def test_ids_name_files_here_alone(tmp_path, id):
  (tmp_path / 'train.txt').write_text(id)
  refused(pascal.read_ids, tmp_path / 'train.txt', 'which is no id')


def test_a_file_numbered_beyond_all_others(tmp_path):
  for split in mtan.SPLITS:
    (tmp_path / split / 'image').mkdir(parents=True)
    (tmp_path / split / 'image/0.npy').write_bytes(b'')
  (tmp_path / 'train/image/99999999999.npy').write_bytes(b'')
  refused(lambda path: mtan.ids(path, ['image']), tmp_path, 'numbered 99999999999')


@pytest.mark.parametrize('data', [npy((10**5, 10**5, 3)), npy((0, 6, 3)), zipped_npy()])
def test_mtan_arrays(tmp_path, data):
  (tmp_path / '0.npy').write_bytes(data)
  refused(lambda path: mtan.read(path, 3), tmp_path / '0.npy', '0.npy')


@pytest.mark.parametrize('value', ['text', np.zeros((0, 0)), np.zeros((2, 2, 2)), np.zeros((1, 1), object), {'a': 1}])
def test_label_maps(tmp_path, value):
  scipy.io.savemat(tmp_path / 'a.mat', {'LabelMap': value})
  refused(pascal.read_label_map, tmp_path / 'a.mat', 'LabelMap is')


def test_a_matlab_bomb(tmp_path, monkeypatch):
  monkeypatch.setattr(pascal, 'MAT_BYTES', 1 << 22)
  data = zlib.compress(bytes(5 << 20))
  scipy.io.savemat(tmp_path / 'a.mat', {'LabelMap': np.zeros((2, 2))})
  whole = (tmp_path / 'a.mat').read_bytes()[:128] + struct.pack('<II', pascal.MAT_COMPRESSED, len(data)) + data
  (tmp_path / 'a.mat').write_bytes(whole)
  refused(pascal.read_label_map, tmp_path / 'a.mat', 'unpacks to more than 4 MB')


# --- Archives --------------------------------------------------------------------------------


def encrypted() -> bytes:
  """A zip archive whose file says that it is."""
  data = bytearray(zipped([file('a')]))
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
  'a file below a file': (tar([file('a'), file('a/b')]), 'cannot be unpacked'),
  'a name too long': (tar([file('x' * 300)]), 'cannot be unpacked'),
  'a link up': (tar([link('a', '..'), file('a/b')]), 'outside the folder'),
  'a link to a link up': (tar([link('d/a', 'x/../..')]), 'outside the folder'),
  'a link elsewhere': (tar([link('a', '/etc'), file('a/passwd')]), 'refused to unpack'),
  'a hard link up': (tar([link('a', '../../victim', HARD)]), 'outside the folder'),
  'a device': (tar([link('null', '', tarfile.CHRTYPE)]), 'refused'),
  'a loop of links': (tar([link('a', 'a'), file('a/b')]), 'archive'),
  'a bomb in gzip': (gzip.compress(tar([file('a', bytes(100 << 20))], 'w'), 9), 'times its size'),
  'a bomb in zip': (zipped([file('a', bytes(100 << 20))]), 'times its size'),
  'a bomb of holes': (sparse(), 'times its size'),
  'an endless name': (long_name(), 'times its size'),
  'an encrypted file': (encrypted(), 'damaged or cut short'),
}
ARCHIVES |= {
  f'{name} in {write.__name__}': (write([file('fine.txt'), file(name)]), 'outside the folder')
  for name in ('../../victim', '/tmp/dmtl_evil.txt', 'a/../../../victim')
  for write in (tar, zipped)
}


@pytest.mark.parametrize('name', ARCHIVES)
def test_archives(tmp_path, name):
  (tmp_path / 'victim').write_text('mine')
  data, words = ARCHIVES[name]
  (tmp_path / 'archive').write_bytes(data)
  refused(lambda path: download.extract(path, tmp_path / 'to/out'), tmp_path / 'archive', 'archive', words)
  assert (tmp_path / 'victim').read_text() == 'mine' and not (tmp_path / 'to/out').exists()
  assert {path.name for path in tmp_path.iterdir()} <= {'victim', 'archive', 'to'}


# --- Runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['../../x', '/etc/x', 'a/b', '', 'a b', 'x' * 300])
def test_a_task_names_files_in_its_folder_alone(tmp_path, name):
  with pytest.raises(ValueError, match='a name is letters'):
    make_task(name, 'depth')
  (tmp_path / 'tasks.json').write_text(json.dumps([{'name': name, 'kind': 'depth', 'classes': []}]))
  refused(workdir.read_tasks, tmp_path, 'tasks.json', 'a name is letters')


@pytest.mark.parametrize(
  'content, words',
  [
    ({'model': {'width': 10**9}}, 'model.width must be a whole number from 1 to 1024'),
    ({'data': {'size': [10**6, 10**6]}}, 'data.size must be height and width'),
    ({'data': {'size': 'ab'}}, 'data.size must be height and width'),
    ({'optim': None}, 'optim must be a section'),
    ({'items': 1}, "'items' is no name of a field"),
    ({'a.b': 1}, "'a.b' is no name of a field"),
    ([], 'not a config'),
  ],
)
def test_configs(tmp_path, content, words):
  (tmp_path / 'config.json').write_text(json.dumps(content))
  refused(workdir.read_config, tmp_path, 'config.json', words)
