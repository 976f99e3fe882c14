"""Files in both of PyTorch's formats, written without PyTorch, and what must be refused; see also test_hostile.py."""

import zipfile

import ml_dtypes
import numpy as np
import pytest

from dmtl_jax.basics import torch_file
from dmtl_jax.basics.errors import UserError
from tests.torch_writer import Call, checkpoint, function, Storage, tensor, write_legacy, write_zip, WRITERS


def refused(path, words: str):
  with pytest.raises(UserError, match=words):
    torch_file.load(path)


@WRITERS
def test_reads_tensors_and_plain_containers(tmp_path, write):
  content = torch_file.load(write(tmp_path / 'x.pth', *checkpoint()))
  whole = np.arange(12, dtype=np.float32).reshape(3, 4)
  model = {
    'whole': whole,
    'transposed': whole.T,
    'slice': whole[1:, 1:3],
    'parameter': np.array([1.5, -2], ml_dtypes.bfloat16),
    'counter': np.array(7),
    'empty': np.zeros((0, 5), np.float32),
  }
  for name, values in content.pop('model').items():
    np.testing.assert_array_equal(values, model.pop(name), strict=True)
  assert not model
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


def test_says_what_cannot_be_read(tmp_path):
  refused(tmp_path / 'x.pth', 'x.pth: cannot be read .No such file')
  refused(tmp_path, 'cannot be read .Is a directory')


@WRITERS
def test_every_truncation_is_noticed(tmp_path, write):
  whole = write(tmp_path / 'x.pth', *checkpoint()).read_bytes()
  for end in range(0, len(whole), 7):
    (tmp_path / 'cut.pth').write_bytes(whole[:end])
    refused(tmp_path / 'cut.pth', 'cut.pth')
