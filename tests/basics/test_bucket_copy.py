"""Copies of folders in a bucket, by fsspec's file system in memory and by gcsfs."""

import json
import pathlib

import fsspec
import pytest

import dmtl_jax
from dmtl_jax.basics import bucket, bucket_copy, errors
from dmtl_jax.basics.errors import UserError
from tests import gcs, toy


@pytest.fixture
def store():
  memory = fsspec.filesystem('memory')
  memory.store.clear()
  for name in ('a.png', 'sub/b.png', 'sub/c.txt'):
    memory.pipe_file(f'/bk/data/{name}', name.encode())
  return memory


def sync(store, folder: pathlib.Path, pattern: str = ''):
  bucket_copy.sync(store, '/bk/data', folder, 'gs://bk/data', pattern)


def content(folder: pathlib.Path) -> dict[str, str]:
  return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob('*') if path.is_file()}


def test_a_copy_is_made_once_and_follows_the_bucket(store, tmp_path):
  folder = tmp_path / 'copy/data'
  sync(store, folder)
  assert content(folder) == {name: name for name in ('a.png', 'sub/b.png', 'sub/c.txt')}
  before = (folder / 'a.png').stat()
  store.rm('/bk/data/sub/c.txt')
  store.pipe_file('/bk/data/sub/b.png', b'changed')
  sync(store, folder)
  assert content(folder) == {'a.png': 'a.png', 'sub/b.png': 'changed'}
  assert (folder / 'a.png').stat() == before


def test_a_pattern_copies_only_what_matches(store, tmp_path):
  sync(store, tmp_path / 'data', '*.png')
  assert content(tmp_path / 'data') == {'a.png': 'a.png'}
  sync(store, tmp_path / 'data', '**/*.png')
  assert content(tmp_path / 'data') == {'a.png': 'a.png', 'sub/b.png': 'sub/b.png'}


def test_names_that_lead_elsewhere_are_left_out(store, tmp_path):
  store.store['/bk/data/../../out'] = store.store['/bk/data/a.png']
  sync(store, tmp_path / 'x/data')
  assert set(content(tmp_path / 'x/data')) == {'a.png', 'sub/b.png', 'sub/c.txt'}
  assert not (tmp_path / 'out').exists()


def test_a_folder_without_files_is_named(store, tmp_path):
  with pytest.raises(UserError, match=r'gs://bk/data/\*\.jpg: no file there'):
    sync(store, tmp_path / 'data', '*.jpg')


@pytest.mark.parametrize('fact', [{'size': 4}, {'md5Hash': 'AAAAAAAAAAAAAAAAAAAAAA=='}])
def test_a_file_with_another_length_or_sum_is_refused(store, tmp_path, monkeypatch, fact):
  listed = store.find('/bk/data', detail=True)
  listed['/bk/data/a.png'] |= fact
  monkeypatch.setattr(store, 'find', lambda *_, **__: listed)
  with pytest.raises(UserError, match='gs://bk/data/a.png: arrives with another length or MD5 sum'):
    sync(store, tmp_path / 'data')
  assert 'a.png' not in content(tmp_path / 'data')


def test_a_copy_that_was_interrupted_is_completed(store, tmp_path):
  folder = tmp_path / 'data'
  sync(store, folder)
  (tmp_path / 'data.copied.json').unlink()
  (folder / 'a.png').write_text('a.p')
  sync(store, folder)
  assert content(folder)['a.png'] == 'a.png'
  assert json.loads((tmp_path / 'data.copied.json').read_text()).keys() == content(folder).keys()


@pytest.mark.parametrize('pattern', ['', '*.png'])
def test_what_an_interrupted_copy_knew_is_not_forgotten(store, tmp_path, monkeypatch, pattern):
  """A file that is gone, or changed without a sum that would show it, is not left here by a copy that broke off."""
  facts = {name: {'generation': 1} for name in ('a.png', 'b.png', 'c.png')}

  def find(source, detail):
    return {f'/bk/flat/{name}': {'size': 1} | fact for name, fact in facts.items()}

  def broken(remote, local):
    raise KeyboardInterrupt

  monkeypatch.setattr(store, 'find', find)
  for name in facts:
    store.pipe_file(f'/bk/flat/{name}', b'1')
  folder = tmp_path / 'flat'
  arguments = (store, '/bk/flat', folder, 'gs://bk/flat', pattern)
  bucket_copy.sync(*arguments)
  facts['b.png'] = {'generation': 2}
  store.pipe_file('/bk/flat/b.png', b'2')
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(store, 'get_file', broken)
    bucket_copy.sync(*arguments)
  assert (folder / 'b.png').read_bytes() == b'1'  # a run that reads it goes on
  del facts['c.png']
  bucket_copy.sync(*arguments)
  assert content(folder) == {'a.png': '1', 'b.png': '2'}


def test_each_call_of_the_api_sees_the_data_as_they_are_now(store, tmp_path, monkeypatch):
  monkeypatch.setattr(errors, 'aliases', {})
  monkeypatch.setattr(bucket, 'check_library', lambda where: None)
  monkeypatch.setattr(bucket, 'file_system', lambda: store)
  toy.write(tmp_path / 'toy', 2, 1)
  label = tmp_path / 'toy/train/labels/semseg/train01.png'
  later = label.read_bytes()
  label.unlink()
  for path in tmp_path.glob('toy/**/*.*'):
    store.pipe_file(f'/bucket/{path.relative_to(tmp_path)}', path.read_bytes())
  config = dmtl_jax.get_config('folder', **{'data.path': 'gs://bucket/toy', 'data.tasks': ('semseg',)})
  assert dmtl_jax.open_data(config).train.label_mask.sum() == 1
  store.pipe_file('/bucket/toy/train/labels/semseg/train01.png', later)
  assert dmtl_jax.open_data(config).train.label_mask.sum() == 2


def test_images_in_a_bucket_are_found_by_file_folder_and_glob(tmp_path, monkeypatch):
  pytest.importorskip('gcsfs', reason='gcsfs, through which a bucket is listed, is not installed')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(errors, 'aliases', {})
  with gcs.Bucket() as running:
    for name, value in running.environment().items():
      monkeypatch.setenv(name, value)
    for name in ('a.jpg', 'b.png'):
      running.put(f'photos/{name}', name.encode())
    address = f'gs://{gcs.BUCKET}/photos'
    cached = tmp_path / f'dmtl_jax/buckets/{gcs.BUCKET}/photos'
    assert bucket_copy.local_images(f'{address}/a.jpg', '--images') == f'{cached}/a.jpg'
    assert content(cached) == {'a.jpg': 'a.jpg'}
    assert bucket_copy.local_images(f'{address}/*.png', '--images') == f'{cached}/*.png'
    assert bucket_copy.local_images(address, '--images') == str(cached)
    assert content(cached) == {'a.jpg': 'a.jpg', 'b.png': 'b.png'}
