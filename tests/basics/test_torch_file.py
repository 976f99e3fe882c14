"""Files in both of PyTorch's formats, written here instruction by instruction, and what must be refused."""

import io
import pickle
import struct
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from dmtl_jax.basics import torch_file
from dmtl_jax.basics.errors import UserError

NAMES = {np.float32: 'FloatStorage', np.int64: 'LongStorage', ml_dtypes.bfloat16: 'BFloat16Storage'}


def function(module, name):
  """A function that pickles as module.name, whatever that is here."""
  fake = types.FunctionType((lambda *args: None).__code__, {}, name)
  fake.__module__, fake.__qualname__ = module, name
  return fake


class Call:
  """Pickles as a call of module.name."""

  def __init__(self, module, name, *args):
    self.call = function(module, name), args

  def __reduce__(self):
    return self.call


class Storage:
  def __init__(self, data, key, numel=None):
    self.data, self.key = data, key
    self.numel = data.size if numel is None else numel  # as claimed


class Pickler(pickle._Pickler):
  """Writes storages as persistent ids, and names without importing them."""

  def persistent_id(self, obj):
    if isinstance(obj, Storage):
      kind = function('torch', NAMES[obj.data.dtype.type])
      return ('storage', kind, obj.key, 'cuda:0', obj.numel, *self.tail)
    return None

  def save_global(self, obj, name=None):
    self.write(pickle.GLOBAL + f'{obj.__module__}\n{name or obj.__qualname__}\n'.encode())
    self.memoize(obj)

  dispatch = pickle._Pickler.dispatch | {types.FunctionType: save_global}


def pickled(content, tail=(), protocol=2) -> bytes:
  stream = io.BytesIO()
  pickler = Pickler(stream, protocol)
  pickler.tail = tail
  pickler.dump(content)
  return stream.getvalue()


def tensor(storage, size, stride, offset=0):
  hooks = Call('collections', 'OrderedDict')
  return Call('torch._utils', '_rebuild_tensor_v2', storage, offset, size, stride, False, hooks)


def write_zip(path, content, storages=(), extra=(), compression=zipfile.ZIP_STORED, **options):
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr('model/data.pkl', pickled(content, **options))
    archive.writestr('model/version', '3\n')
    for storage in storages:
      archive.writestr(f'model/data/{storage.key}', storage.data.tobytes())
    for name, text in extra:
      archive.writestr(name, text)
  return path


def write_legacy(path, content, storages=(), little_endian=True):
  sizes = {'short': 2, 'int': 4, 'long': 4}
  system = {'protocol_version': 1001, 'little_endian': little_endian, 'type_sizes': sizes}
  with open(path, 'wb') as file:
    for part in (0x1950A86A20F9469CFC6C, 1001, system, content):
      file.write(pickled(part, tail=(None,)))
    file.write(pickled([s.key for s in storages]))
    for storage in storages:
      file.write(struct.pack('<q', storage.data.size) + storage.data.tobytes())
  return path


def refused(path, words: str):
  with pytest.raises(UserError, match=words):
    torch_file.load(path)


WRITERS = pytest.mark.parametrize('write', [write_zip, write_legacy])


def checkpoint():
  """Every kind of thing a checkpoint holds, and its storages."""
  a = Storage(np.arange(12, dtype=np.float32), '0')
  b = Storage(np.array([7], np.int64), '1')
  c = Storage(np.array([1.5, -2], ml_dtypes.bfloat16), '2')
  content = {
      'model': {
          'whole': tensor(a, (3, 4), (4, 1)),
          'transposed': tensor(a, (4, 3), (1, 4)),
          'slice': tensor(a, (2, 2), (4, 1), offset=5),
          'parameter': Call('torch._utils', '_rebuild_parameter', tensor(c, (2,), (1,)), True, None),
          'counter': tensor(b, (), ()),
          'empty': tensor(a, (0, 5), (5, 1)),
      },
      'epoch': 3, 'best': -0.25, 'name': 'caf\xe9', 'none': None, 'flags': [True, False], 'big': 2**70,
      'size': Call('torch', 'Size', (2, 3)), 'raw': Call('_codecs', 'encode', '\xff\x00', 'latin1'),
      'score': Call('numpy.core.multiarray', 'scalar', np.dtype('float64'), struct.pack('<d', 0.5)),
      5: ('a', ()),
  }  # fmt: skip
  return content, [a, b, c]


@WRITERS
def test_reads_tensors_and_plain_containers(tmp_path, write):
  content = torch_file.load(write(tmp_path / 'x.pth', *checkpoint()))
  model = content.pop('model')
  whole = np.arange(12, dtype=np.float32).reshape(3, 4)
  np.testing.assert_array_equal(model['whole'], whole, strict=True)
  np.testing.assert_array_equal(model['transposed'], whole.T, strict=True)
  np.testing.assert_array_equal(model['slice'], whole[1:, 1:3], strict=True)
  np.testing.assert_array_equal(model['parameter'], np.array([1.5, -2], ml_dtypes.bfloat16), strict=True)
  np.testing.assert_array_equal(model['counter'], np.array(7), strict=True)
  assert model['empty'].shape == (0, 5)
  assert content == {
      'epoch': 3, 'best': -0.25, 'name': 'caf\xe9', 'none': None, 'flags': [True, False], 'big': 2**70,
      'size': (2, 3), 'raw': b'\xff\x00', 'score': 0.5, 5: ('a', ()),
  }  # fmt: skip
  assert isinstance(content['score'], float)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_reads_every_protocol(tmp_path, protocol):
  content = {'a': [1, -300, 70_000, 'x', b'y', 1.5], 'b': ((), (1,), (1, 2, 3, 4))}
  assert torch_file.load(write_zip(tmp_path / 'x.pth', content, protocol=protocol)) == content


def test_state_of_an_ordered_dict_is_dropped(tmp_path):
  class State(dict):
    def __reduce__(self):
      return function('collections', 'OrderedDict'), (), {'_metadata': {'': 1}}, None, iter(self.items())

  assert torch_file.load(write_zip(tmp_path / 'x.pth', State(a=1, b=2))) == {'a': 1, 'b': 2}


@WRITERS
@pytest.mark.parametrize('module, name', [('os', 'system'), ('builtins', 'eval'), ('torch', 'load')])
def test_refuses_anything_else_by_name(tmp_path, write, module, name):
  path = write(tmp_path / 'x.pth', {'model': Call(module, name, f'touch {tmp_path}/executed')})
  refused(path, f'^{path} holds a `{module}.{name}`, which is neither a tensor nor a plain')
  assert not (tmp_path / 'executed').exists()


@WRITERS
@pytest.mark.parametrize('numel, size, stride, offset, words', [
    *((12, *view, 'x.pth') for view in (
      ((13,), (1,), 0), ((3, 4), (5, 1), 0), ((2,), (1,), 11), ((2,), (-1,), 1), ((2,), (1,), -1), ((2, 2), (1,), 0),
    )),
    (12, (2**20, 2**20), (0, 0), 0, r'size \(1048576, 1048576\) made of 12 numbers'),
    *((numel, (2,), (1,), 0, 'damaged or cut short') for numel in (11, 13, 2**50)),
])  # fmt: skip
def test_refuses_what_reaches_beyond_its_storage_of_12_numbers(tmp_path, write, numel, size, stride, offset, words):
  storage = Storage(np.arange(12, dtype=np.float32), '0', numel)
  refused(write(tmp_path / 'x.pth', tensor(storage, size, stride, offset), [storage]), words)


@WRITERS
def test_refuses_a_file_without_a_tensors_data(tmp_path, write):
  content, storages = checkpoint()
  refused(write(tmp_path / 'x.pth', content, storages[1:]), 'damaged or cut short')


def test_refuses_big_endian_files(tmp_path):
  refused(write_legacy(tmp_path / 'x.pth', 1, little_endian=False), 'big-endian')
  refused(write_zip(tmp_path / 'y.pth', 1, extra=[('model/byteorder', 'big')]), 'big-endian')
  assert torch_file.load(write_zip(tmp_path / 'z.pth', 1, extra=[('model/byteorder', 'little')])) == 1


def test_refuses_compressed_archives(tmp_path):
  path = write_zip(tmp_path / 'x.pth', {'a': 'a' * 10_000}, compression=zipfile.ZIP_DEFLATED)
  refused(path, 'compressed')


def raw(*parts) -> bytes:
  return b'\x80\x02' + b''.join(parts) + b'.'


@pytest.mark.parametrize(
  'program, message',
  [
    (raw(b'}', b'N', b'\x85' * 300_000, b'Ns'), 'tuple for a key'),  # hash() of it would crash Python
    (raw(b'N', b'\x85' * 300_000, b')R'), 'damaged'),
    (raw(b'N', b'\x85' * 300_000, b'Q'), 'damaged'),
    (raw(b']r\xff\xff\xff\x7f'), None),  # CPython's unpickler allocates 32 GB for this memo index
    (raw(b'\x8d' + b'\xff' * 7 + b'\x3f'), 'damaged'),  # a string of 2^62 bytes
    (raw(b'cnumpy\ndtype\nX\x0b\x00\x00\x00U9999999999\x85R'), 'numpy dtype'),
    (raw(b'ccollections\nOrderedDict\nN\x8c\x08__dict__Nsb'), 'damaged'),
    (raw(b'ccollections\nOrderedDict\n}b'), 'gives a state to a str'),
    (raw(b'\x82\x01'), 'instruction EXT1'),
    (raw(b'(ios\nsystem\n'), 'instruction INST'),
    (b'\x80\x02]', 'damaged'),
    (b'', 'damaged'),
  ],
)
def test_hostile_pickles(tmp_path, program, message):
  path = tmp_path / 'x.pth'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('model/data.pkl', program)
  if message is None:
    assert torch_file.load(path) == []
  else:
    refused(path, message)


@pytest.mark.parametrize('content', [b'', b'<html>404</html>', b'PK\x03\x04', pickle.dumps({'a': 1}), b'\x80\x02'])
def test_says_what_is_no_pytorch_file(tmp_path, content):
  (tmp_path / 'x.pth').write_bytes(content)
  refused(tmp_path / 'x.pth', r'x.pth.* (is not a PyTorch file|damaged)')


def test_says_what_cannot_be_read(tmp_path):
  refused(tmp_path / 'x.pth', 'x.pth: cannot be read .No such file')
  refused(tmp_path, 'cannot be read .Is a directory')


@WRITERS
def test_every_truncation_is_noticed(tmp_path, write):
  whole = write(tmp_path / 'x.pth', *checkpoint()).read_bytes()
  for end in range(0, len(whole), 7):
    (tmp_path / 'cut.pth').write_bytes(whole[:end])
    refused(tmp_path / 'cut.pth', 'cut.pth')


def write_program(path, program, storages):
  """A zip file whose checksums are right, around any bytes for a pickle."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('model/data.pkl', program)
    for storage in storages:
      archive.writestr(f'model/data/{storage.key}', storage.data.tobytes())
