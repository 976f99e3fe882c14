"""Writes files in both of PyTorch's formats, instruction by instruction and without PyTorch."""

import io
import pickle
import struct
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

NAMES = {np.float32: 'FloatStorage', np.int64: 'LongStorage', ml_dtypes.bfloat16: 'BFloat16Storage'}


def function(module, name):
  """A function that pickles as module.name, whatever that is here."""
  function = types.FunctionType((lambda *args: None).__code__, {}, name)
  function.__module__ = module
  function.__qualname__ = name
  return function


class Call:
  """Pickles as a call of module.name."""

  def __init__(self, module, name, *args):
    self.call = function(module, name), args

  def __reduce__(self):
    return self.call


class Storage:
  """Numbers of a tensor, of which the file claims to have `numel`."""

  def __init__(self, data, key, numel=None):
    self.data = data
    self.key = key
    self.numel = data.size if numel is None else numel


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


def write_program(path, program: bytes, storages=(), extra=(), compression=zipfile.ZIP_STORED):
  """A zip file whose checksums are right, around any bytes for a pickle; `path` may be a stream."""
  members = {'model/data.pkl': program, **{f'model/data/{s.key}': s.data.tobytes() for s in storages}, **dict(extra)}
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in members.items():
      archive.writestr(zipfile.ZipInfo(name), content, compression)  # without the time: fuzzing starts from it
  return path


def write_zip(path, content, storages=(), extra=(), compression=zipfile.ZIP_STORED, **options):
  extra = [('model/version', '3\n'), *extra]
  return write_program(path, pickled(content, **options), storages, extra, compression)


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
