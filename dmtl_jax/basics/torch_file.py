"""Reads PyTorch's `.pth` files without PyTorch and without executing anything in them.

A `.pth` file is a pickle, which is a program. `unpickle` runs only the instructions that tensors
and plain containers need, on its own stack, and calls only the functions in `_CALLS`; a file that
names anything else is refused.

There are two formats: since PyTorch 1.6, a zip archive with one member per storage; before that, a sequence
of pickles (magic number, protocol, system, content, storage keys) followed by the bytes of the storages.
A tensor is a strided view of a storage.
"""

from collections.abc import Callable
import io
import math
import mmap
import os
import pathlib
import pickletools
import re
import stat
import struct
from typing import Any
import zipfile

import ml_dtypes
import numpy as np

from dmtl_jax.basics.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
BIG_ENDIAN = 'was written on a big-endian machine; save it again on a little-endian one'
ZIP_START = b'PK\x03\x04'
MAX_DIMENSIONS = 64  # of numpy
MAX_COPIES = 16  # items that may be copied per byte of the pickle, since a memo can repeat one long list
STORAGES = {
  'torch.DoubleStorage': np.float64,
  'torch.FloatStorage': np.float32,
  'torch.HalfStorage': np.float16,
  'torch.BFloat16Storage': ml_dtypes.bfloat16,
  'torch.LongStorage': np.int64,
  'torch.IntStorage': np.int32,
  'torch.ShortStorage': np.int16,
  'torch.CharStorage': np.int8,
  'torch.ByteStorage': np.uint8,
  'torch.BoolStorage': np.bool_,
  'torch.ComplexFloatStorage': np.complex64,
  'torch.ComplexDoubleStorage': np.complex128,
}
# Errors that the parsers raise for damaged bytes.
_DAMAGE_ERRORS = (
    ValueError, TypeError, LookupError, ArithmeticError, AttributeError, BufferError, EOFError, RuntimeError,
    struct.error, zipfile.BadZipFile,
)  # fmt: skip

# (key, dtype, numel) -> the storage [numel].
OpenStorage = Callable[[str, np.dtype, int], np.ndarray]


class _RefusedError(Exception):
  """The file holds something it must not; the text follows the file's name in the message."""


def load(path: str | os.PathLike) -> Any:
  """Reads a `.pth` or `.pth.tar` file.

  Returns:
    The saved content, as nested dicts (also for OrderedDict), lists and tuples of read-only numpy
    arrays (bfloat16 as `ml_dtypes.bfloat16`), numbers, strings and bytes.

  Raises:
    UserError: the file cannot be read, is not a PyTorch file, is damaged, or holds anything else.
  """
  path = pathlib.Path(path)
  try:
    if not stat.S_ISREG(os.stat(path).st_mode) and not path.is_dir():  # opening a pipe would block
      raise _RefusedError('is not a file')
    with open(path, 'rb') as file:
      return _load_zip(file) if file.read(4) == ZIP_START else _load_legacy(file)
  except _RefusedError as error:
    raise UserError(f'{path} {error}') from error
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
  except _DAMAGE_ERRORS as error:
    raise UserError(f'{path}: damaged or cut short ({_describe(error)}); copy or download it again') from error


def _describe(value) -> str:
  """A value from a file, safe to print; for containers, which may be endless, only the type."""
  text = value if isinstance(value, str) else str(value) if isinstance(value, Exception) else type(value).__name__
  return ascii(text[:100])[1:-1][:100]


def _load_zip(file) -> Any:
  size = file.seek(0, os.SEEK_END)
  with zipfile.ZipFile(file) as archive:
    members = {member.filename: member for member in archive.infolist()}
    # PyTorch does not compress, so all members together cannot be larger than the file.
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
      raise _RefusedError('holds compressed members, which PyTorch never writes; refused')
    if sum(member.file_size for member in archive.infolist()) > size:
      raise _RefusedError('claims to hold more bytes than the file has; refused')
    roots = [name.removesuffix('data.pkl') for name in members if re.fullmatch('[^/]+/data.pkl', name)]
    if len(roots) != 1:
      raise _RefusedError('is not a PyTorch file: a zip archive without one data.pkl')
    order = members.get(f'{roots[0]}byteorder')
    if order and archive.read(order) != b'little':
      raise _RefusedError(BIG_ENDIAN)

    def open_storage(key, dtype, _):
      return np.frombuffer(archive.read(members[f'{roots[0]}data/{key}']), dtype)

    return unpickle(io.BytesIO(archive.read(members[f'{roots[0]}data.pkl'])), open_storage)


def _load_legacy(file) -> Any:
  size = file.seek(0, os.SEEK_END)
  not_torch = 'is not a PyTorch file: it starts with neither a zip archive nor the magic number'
  if not size:
    raise _RefusedError(f'{not_torch} (it is empty)')
  # Unlike a file, a memory map does not allocate what a damaged length asks for.
  with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
    try:
      magic = unpickle(stream, _no_storage)
    except (_RefusedError, *_DAMAGE_ERRORS) as error:
      raise _RefusedError(not_torch) from error
    if magic != MAGIC:
      raise _RefusedError(not_torch)
    if unpickle(stream, _no_storage) != PROTOCOL:
      raise _RefusedError(f'has another format than {PROTOCOL}, the only one known: save it again by a newer torch')
    if not unpickle(stream, _no_storage)['little_endian']:
      raise _RefusedError(BIG_ENDIAN)
    storages = {}
    left = size

    def open_storage(key, dtype, numel):
      nonlocal left
      left -= numel * dtype.itemsize
      if left < 0 or key in storages:
        raise ValueError(f'storage {key} is there twice, or larger than the file')
      storages[key] = np.empty(numel, dtype)  # filled below
      return storages[key]

    content = unpickle(stream, open_storage)
    for key in unpickle(stream, _no_storage):
      _fill(storages.pop(key), stream)
    if storages:
      raise ValueError(f'no data for {len(storages)} storages')
    return content


def _fill(storage: np.ndarray, stream):
  numel = int.from_bytes(stream.read(8), 'little')
  data = stream.read(storage.nbytes)
  if numel != storage.size or len(data) != storage.nbytes:
    raise ValueError(f'a storage of {storage.size} numbers has {numel}, {len(data)} bytes of them there')
  storage.view(np.uint8)[:] = np.frombuffer(data, np.uint8)


def _no_storage(key, dtype, numel):
  raise ValueError('a tensor where there should be none')


def _tensor(storage, offset, size, stride, *_) -> np.ndarray:
  """A view of a storage [numel], as torch._utils._rebuild_tensor_v2 makes it, without gradients and hooks."""
  fits = isinstance(storage, np.ndarray) and len(size) == len(stride) <= MAX_DIMENSIONS
  if not fits or not all(isinstance(n, int) and 0 <= n < 2**63 for n in (offset, *size, *stride)):
    raise ValueError('offset, size and stride of no tensor')
  if math.prod(size) > storage.size:
    raise _RefusedError(f'holds a tensor of size {tuple(size)} made of {storage.size} numbers; refused')
  itemsize = storage.dtype.itemsize
  # The constructor raises ValueError where the view would leave the storage.
  view = np.ndarray(tuple(size), storage.dtype, storage, offset * itemsize, [s * itemsize for s in stride])
  view.flags.writeable = False
  return view


def _dtype(code, *_) -> np.dtype:
  """The numpy.dtype of a number or a string; the byte order follows as state (`build`)."""
  if not re.fullmatch(r'[biufcSU]\d{1,6}', code):
    raise _RefusedError(f'holds a numpy dtype {_describe(code)}, which is neither a number nor a string; refused')
  return np.dtype(code)


def _scalar(dtype, data):
  if not isinstance(dtype, np.dtype) or len(data) != dtype.itemsize:
    raise ValueError(f'not a numpy scalar: {len(data)} bytes')
  return np.frombuffer(data, dtype)[0].item() if dtype.itemsize else dtype.type().item()


def _encode(text, encoding) -> bytes:
  """Decodes bytes as Python 3 writes them into pickles of protocol 2."""
  if encoding != 'latin1':
    raise ValueError('bytes in another encoding than latin1')
  return text.encode('latin1')


def _set_item(target: dict, key, value):
  # Only scalar keys: hashing a tuple nested a million deep would crash Python.
  if not isinstance(target, dict):
    raise ValueError('sets an item of something that is not a dict')
  if not isinstance(key, (str, bytes, int, float, type(None))):
    raise _RefusedError(f'holds a dict with a {type(key).__name__} for a key; refused')
  if isinstance(key, int) and key.bit_length() > 64:  # hashing it would take too long
    raise _RefusedError('holds a dict with an endless number for a key; refused')
  target[key] = value


def _ordered_dict(items=()) -> dict:
  result = {}
  for key, value in items:
    _set_item(result, key, value)
  return result


# The functions that a file may name. The stack holds only their names, so a file cannot reach the functions.
_CALLS = {
  'torch._utils._rebuild_tensor_v2': _tensor,
  'torch._utils._rebuild_tensor': _tensor,
  'torch._utils._rebuild_parameter': lambda data, requires_grad, hooks: data,
  'torch.Size': tuple,
  'collections.OrderedDict': _ordered_dict,
  'numpy.core.multiarray.scalar': _scalar,
  'numpy._core.multiarray.scalar': _scalar,
  'numpy.dtype': _dtype,
  '_codecs.encode': _encode,
}
_IGNORED = {'PROTO', 'FRAME'}
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
_EMPTY = {'EMPTY_LIST': list, 'EMPTY_DICT': dict}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_LITERALS = {
    'INT', 'LONG', 'FLOAT', 'STRING', 'UNICODE', 'BININT', 'BININT1', 'BININT2', 'LONG1', 'LONG4', 'BINFLOAT',
    'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINSTRING', 'SHORT_BINSTRING', 'BINBYTES', 'SHORT_BINBYTES',
    'BINBYTES8',
}  # fmt: skip


def unpickle(stream, open_storage: OpenStorage) -> Any:
  """Runs one pickle from the stream's position, and leaves the stream after its end.

  Args:
    stream: has read, readline and tell.
    open_storage: opens the storage of a persistent id; called once per key and dtype.
  """
  machine = _Machine(open_storage)
  for instruction, argument, position in pickletools.genops(stream):
    if instruction.name == 'STOP':
      return machine.stack.pop()
    machine.run(instruction.name, argument)
    if machine.copied > MAX_COPIES * ((position or 0) + 1024):
      raise _RefusedError('copies one list or text over and over, as no checkpoint does; refused')


def _look_up(table: dict, name):
  if not isinstance(name, str) or name not in table:
    raise ValueError(f'{_describe(name)} where a function or a storage should be')
  return table[name]


class _Machine:
  """Stack, marked outer stacks and memo of a running pickle."""

  def __init__(self, open_storage: OpenStorage):
    self.stack = []
    self.outer_stacks = []
    self.memo = {}
    self.storages = {}
    self.open_storage = open_storage
    self.copied = 0  # items passed to calls

  def run(self, name: str, argument):
    stack = self.stack
    if name in _LITERALS:
      stack.append(argument)
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
      stack.append(_EMPTY[name]())
    elif name in _TUPLES:
      stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
    elif name in ('BINPUT', 'LONG_BINPUT', 'PUT'):
      self.memo[argument] = stack[-1]
    elif name == 'MEMOIZE':
      self.memo[len(self.memo)] = stack[-1]
    elif name in ('BINGET', 'LONG_BINGET', 'GET'):
      stack.append(self.memo[argument])
    elif name == 'MARK':
      self.outer_stacks.append(stack)
      self.stack = []
    elif name not in _IGNORED:
      self.run_compound(name, argument)

  def run_compound(self, name: str, argument):
    """Instructions that combine what is on the stack."""
    if name == 'TUPLE':
      items = self.pop_mark()
      self.stack.append(tuple(items))
    elif name in ('APPEND', 'APPENDS'):
      items = self.pop_mark() if name == 'APPENDS' else [self.stack.pop()]
      if not isinstance(self.stack[-1], list):
        raise ValueError('appends to something that is not a list')
      self.stack[-1].extend(items)
    elif name in ('SETITEM', 'SETITEMS'):
      items = self.pop_mark() if name == 'SETITEMS' else [self.stack.pop(-2), self.stack.pop()]
      for key, value in zip(items[::2], items[1::2], strict=True):
        _set_item(self.stack[-1], key, value)
    elif name == 'GLOBAL':
      self.push_global(*argument.split(' ', 1))
    elif name == 'STACK_GLOBAL':
      self.push_global(self.stack.pop(-2), self.stack.pop())
    elif name == 'REDUCE':
      arguments, function = self.stack.pop(), self.stack.pop()
      self.copied += len(arguments) + sum(len(a) for a in arguments if isinstance(a, (str, bytes, list, tuple)))
      self.stack.append(_look_up(_CALLS, function)(*arguments))
    elif name == 'BINPERSID':
      self.stack.append(self.storage(*self.stack.pop()))
    elif name == 'BUILD':
      self.build(self.stack.pop())
    else:
      raise _RefusedError(f'uses the pickle instruction {name}, which no tensor or plain container needs; refused')

  def pop_mark(self) -> list:
    """Removes and returns everything pushed since the last mark."""
    items = self.stack
    self.stack = self.outer_stacks.pop()
    return items

  def push_global(self, module, name):
    if not isinstance(module, str) or not isinstance(name, str):
      raise ValueError('the name of a function that is no text')
    full = f'{module}.{name}'
    if full not in _CALLS and full not in STORAGES:
      raise _RefusedError(f'holds a `{_describe(full)}`, which is neither a tensor nor a plain container; refused')
    self.stack.append(full)

  def storage(self, kind, storage_type, key, _, numel, view=None) -> np.ndarray:
    """The storage of a persistent id, shared by all its tensors; the device's name is ignored."""
    has_types = isinstance(key, str) and isinstance(numel, int)
    if kind != 'storage' or not has_types or numel < 0 or view is not None:
      raise ValueError('not the id of a storage')
    dtype = np.dtype(_look_up(STORAGES, storage_type))
    if (key, storage_type) not in self.storages:
      self.storages[key, storage_type] = self.open_storage(key, dtype, numel)
    storage = self.storages[key, storage_type]
    if storage.size != numel:
      raise ValueError(f'storage {key} has {storage.size} numbers, not {numel}')
    return storage

  def build(self, state):
    """Applies a state to the object on the stack: checks the byte order of a numpy dtype, ignores that of a dict."""
    target = self.stack[-1]
    if isinstance(target, np.dtype):
      if state[1] == '>' or state[2:5] != (None, None, None):
        raise _RefusedError('holds a big-endian or compound numpy dtype; save plain numbers instead')
    elif not isinstance(target, dict):  # a state_dict has `_metadata` as state
      raise _RefusedError(f'gives a state to a {type(target).__name__}; refused')
