"""The prepare job: what is missing or broken is named, what is interrupted leaves nothing that counts."""

import hashlib
import inspect
import multiprocessing.spawn
import os
import re
import shutil
import tarfile
import zipfile

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from dmtl_jax.basics import download
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import folder
from dmtl_jax.datasets import cityscapes, mtan, nyud, pascal, raw, stored
from dmtl_jax.datasets.pascal import labels
from dmtl_jax.jobs import prepare
from tests.raw_trees import config, grey
from tests.tiny import shared

pytestmark = pytest.mark.usefixtures('no_downloads')


def opened(package, c):
  return stored.prepared(package.Builder, c.data)


def refused(c, words: str):
  with pytest.raises(UserError, match=words):
    prepare.run(c)


def zip_tree(archive, root):
  archive.parent.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(archive, 'w') as file:
    for path in root.rglob('*.npy'):
      file.write(path, path.relative_to(root.parent))
  return archive


def test_pascal_reports_missing_and_broken_files(tmp_path, pascal_raw):
  c = config('pascal', tmp_path, pascal_raw)
  kept = (pascal_raw / 'sal_distill/2008_c.png').read_bytes()
  for file in ('sal_distill/2008_c.png', 'semseg/pascal-context/2008_a.png'):
    (pascal_raw / file).unlink()
  names = r'semseg/pascal-context/2008_a\.png, sal_distill/2008_c\.png'
  refused(c, f'2 of 36 files are missing: {names}; add them')

  # One in train and one in val: one run names both.
  Image.fromarray(grey(5, 7, 21)).save(pascal_raw / 'semseg/pascal-context/2008_a.png')
  (pascal_raw / 'sal_distill/2008_c.png').write_bytes(kept[:40])
  with pytest.raises(UserError) as error:
    prepare.run(c)
  assert '2 images have broken files' in str(error.value)
  assert '2008_a.png: contains class 21' in str(error.value)
  assert '2008_c.png: not a readable image' in str(error.value)
  with pytest.raises(UserError, match='not prepared'):
    opened(pascal, c)


def test_nyud_reports_missing_and_broken_files(tmp_path, nyud_raw):
  c = config('nyud', tmp_path, nyud_raw)
  (nyud_raw / 'train/depth/3.npy').rename(tmp_path / 'kept.npy')
  shutil.rmtree(nyud_raw / 'val/normal')
  refused(c, r'2 of 48 files are missing: train/depth/3\.npy, val/normal/0\.npy')
  (tmp_path / 'kept.npy').rename(nyud_raw / 'train/depth/3.npy')
  (nyud_raw / 'val/normal').mkdir()
  np.save(nyud_raw / 'val/normal/0.npy', np.full((4, 6, 3), np.nan))
  np.save(nyud_raw / 'train/label/4.npy', np.full((4, 6), 13))
  np.save(nyud_raw / 'train/image/7.npy', np.full((4, 6, 3), 200))
  np.save(nyud_raw / 'train/depth/8.npy', np.ones((5, 6, 1)))
  (nyud_raw / 'train/depth/9.npy').write_bytes(b'\x93NUMPY')
  for i in range(2):
    np.save(nyud_raw / f'train/label/{i}.npy', np.array([{}], object))  # a pickle is not unpickled
  with pytest.raises(UserError) as error:
    prepare.run(c)
  for words in (
    '6 images have broken files',
    'label/0.npy: not a readable .npy',
    'label/4.npy: holds values from 13 to 13, expected classes 0 to 12 and -1',
    'image/7.npy: holds values from 200 to 200, expected values from 0 to 1',
    'depth/8.npy: shape [5, 6, 1], expected [4, 6, 1]',
    'and 1 more',
  ):
    assert words in str(error.value)


def test_values_that_are_none_become_unlabelled_and_are_counted(tmp_path, nyud_raw, caplog):
  place = lambda kind, i: nyud_raw / f'train/{kind}/{i}.npy'
  arrays = {kind: np.load(place(kind, 3)) for kind in ('image', 'label', 'depth', 'normal')}
  arrays['image'][0, :2] = [[np.nan, 0.5, 1.25], [-0.5, 0, 1]]
  arrays['label'][1, :3] = 13, np.nan, 200
  arrays['depth'][2, :3, 0] = np.nan, np.inf, 1e300
  arrays['depth'][3, 0, 0] = -1  # what Cityscapes has for no disparity
  arrays['normal'][2, :2] = [np.nan, 0, 1], [3, 0, 0]
  for kind, array in arrays.items():
    np.save(place(kind, 3), array)
  np.save(place('normal', 4), np.full((4, 6, 3), np.nan))
  c = config('nyud', tmp_path, nyud_raw)
  prepare.run(c)
  builder = opened(nyud, c)
  counts = {'train/image': 3, 'train/label': 3, 'train/depth': 3, 'train/normal': 2 + 24}
  assert builder.info.metadata['invalid'] == counts
  for what, count in counts.items():
    assert f'nyud_mt: {what}: {count} values are out of range or no numbers' in caplog.text
  stored_example = builder.as_data_source('train')
  example = mtan.decode(stored_example[3], nyud.TASKS)
  assert example['image'][0, :2].tolist() == [[0, 128, 255], [0, 0, 255]]
  assert example['labels']['semseg'][1, :4, 0].tolist() == [255, 255, 255, 0]
  assert example['labels']['depth'][2, :4, 0].tolist() == [0, 0, 0, arrays['depth'][2, 3, 0]]
  assert example['labels']['depth'][3, 0, 0] == 0
  assert not example['labels']['normals'][2, :2].any()
  assert example['labels']['normals'][2, 2:].any(-1).all()
  assert not mtan.decode(stored_example[4], nyud.TASKS)['labels']['normals'].any()


def test_a_large_split_needs_no_tensorflow(tmp_path, nyud_raw, monkeypatch):
  monkeypatch.setattr(shuffle, 'MAX_MEM_BUFFER_SIZE', 1)  # above it TFDS writes with TensorFlow
  c = config('nyud', tmp_path, nyud_raw)
  prepare.run(c)
  assert len(opened(nyud, c).as_data_source('train')) == 11


def test_another_size_than_the_configs_is_reported(tmp_path, nyud_raw):
  refused(
    config('nyud', tmp_path, nyud_raw, size=(8, 12)), r'0\.npy: 4x6 pixels, but config\.data\.size is 8x12; .*size=4,6'
  )


def test_wrong_raw_paths_are_reported(tmp_path):
  refused(config('nyud', tmp_path, ''), 'give the folder, archive or address.*nyud/README.md')
  refused(config('nyud', tmp_path, tmp_path / 'nowhere'), 'nowhere does not exist')
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'empty' / 'file').touch()
  refused(config('pascal', tmp_path, tmp_path / 'empty'), "empty: contains no 'ImageSets/Context/train.txt'")
  refused(
    config('pascal', tmp_path, 'https://example.org/PASCAL_MT.tgz'),
    'raw_sha256: give the sha256 of https://example.org/PASCAL_MT.tgz',
  )
  refused(config('scenes', tmp_path, ''), "'scenes' needs no preparation")
  refused(folder.get_config(), "'folder' needs no preparation")


def test_an_interrupted_build_leaves_nothing_that_counts(tmp_path, nyud_raw, monkeypatch):
  c = config('nyud', tmp_path, nyud_raw)
  killed = tmp_path / 'tfds/nyud_mt/incomplete.ABCDEF_1.0.0'  # what SIGKILL leaves
  killed.mkdir(parents=True)
  (killed / 'nyud_mt-train.array_record-00000-of-00001').write_bytes(b'half')
  true_encode, calls = mtan.encode, []

  def interrupted(*args, **options):
    calls.append(args)
    if len(calls) == 5:
      raise KeyboardInterrupt
    return true_encode(*args, **options)

  with monkeypatch.context() as patch:
    patch.setattr(mtan, 'encode', interrupted)
    refused(c, 'stopped by Ctrl-C; .* is not built')
  with pytest.raises(UserError, match='not prepared; run python main.py --mode=prepare --config=configs/nyud.py'):
    opened(nyud, c)
  folder = prepare.run(c)
  assert len(opened(nyud, c).as_data_source('train')) == 11
  assert {path.name for path in folder.parent.iterdir()} == {'.lock', '1.0.0'}
  written = folder.stat().st_mtime_ns
  shutil.rmtree(nyud_raw)
  assert prepare.run(c) == folder
  assert folder.stat().st_mtime_ns == written  # built once is enough


def test_data_of_an_older_version_are_refused_with_what_they_lack(tmp_path, pascal_raw):
  c = config('pascal', tmp_path, pascal_raw)
  (tmp_path / 'tfds/pascal_mt/1.0.0').mkdir(parents=True)
  with pytest.raises(
    UserError, match=r'1\.1\.0: .* prepared in version 1\.0\.0 only \(Adds the boundaries .*--mode=prepare'
  ):
    opened(pascal, c)
  prepare.run(c)
  assert opened(pascal, c).data_path.name == '1.1.0'


def test_two_runs_at_once_are_refused(tmp_path, nyud_raw):
  c = config('nyud', tmp_path, nyud_raw)
  with stored.lock(nyud.Builder(data_dir=c.data.dir), wait=False):
    refused(c, 'another process is preparing')


def test_a_script_that_preparing_starts_again_is_reported(tmp_path, nyud_raw, monkeypatch):
  """It would wait for the process that waits for it. Python marks a process that is still running its script so."""
  assert '._inheriting = True' in inspect.getsource(multiprocessing.spawn)
  monkeypatch.setattr(multiprocessing.current_process(), '_inheriting', True, raising=False)
  refused(config('nyud', tmp_path, nyud_raw), 'put its code under if __name__')


def test_archives_are_taken(tmp_path, nyud_raw, pascal_raw):
  archive = zip_tree(tmp_path / 'nyuv2.zip', nyud_raw)
  tgz = tmp_path / 'PASCAL_MT.tgz'
  with tarfile.open(tgz, 'w:gz') as file:
    file.add(pascal_raw, 'PASCAL_MT')
  shutil.rmtree(nyud_raw)
  shutil.rmtree(pascal_raw)
  refused(config('nyud', tmp_path, archive, raw_sha256='0' * 64), 'nyuv2.zip: sha256 is')
  prepare.run(config('nyud', tmp_path, archive, raw_sha256=hashlib.sha256(archive.read_bytes()).hexdigest()))
  c = config('pascal', tmp_path, tgz)
  prepare.run(c)
  assert len(opened(pascal, c).as_data_source('train')) == 5


def test_an_archive_in_an_archive_or_a_folder_is_found(tmp_path, nyud_raw):
  """Dropbox hands out the folder of nyuv2.zip as another zip."""
  inner = zip_tree(tmp_path / 'handed/out/nyuv2.zip', nyud_raw)
  outer = tmp_path / 'Archive.zip'
  with zipfile.ZipFile(outer, 'w') as file:
    file.write(inner, 'nyuv2.zip')
  for number, given in enumerate((outer, tmp_path / 'handed')):
    c = config('nyud', tmp_path / str(number), given)
    prepare.run(c)
    assert len(opened(nyud, c).as_data_source('train')) == 11


def test_all_mappings_lie_beside_the_data_whatever_todays_setting(tmp_path, nyud_raw, monkeypatch, caplog):
  mapping = b'official'
  info = lambda name: tfds.download.checksums.UrlInfo(8, hashlib.sha256(mapping).hexdigest(), name)
  names = ('onelabel.pth', 'randomlabels.pth')
  monkeypatch.setattr(nyud.Builder, 'url_infos', {f'http://127.0.0.1:9/{name}': info(name) for name in names})
  c = config('nyud', tmp_path, nyud_raw, labels='one')
  refused(c, 'is ready, but not onelabel.pth: .*save the file as')
  place = tmp_path / 'tfds/nyud_mt/1.0.0/label_mappings/onelabel.pth'
  place.parent.mkdir(exist_ok=True)
  place.write_bytes(b'another')
  refused(c, 'onelabel.pth: sha256 is')
  place.write_bytes(mapping)
  prepare.run(c)  # what today's setting does not need is only a warning
  assert re.search('is ready, but not randomlabels.pth: .*save the file as', caplog.text)
  server = {f'http://127.0.0.1:9/{name}': mapping for name in names}
  monkeypatch.setattr(download, '_fetch', lambda url, part: part.write_bytes(server[url]))
  c.data.labels = 'full'
  prepare.run(c)
  assert (place.parent / 'randomlabels.pth').read_bytes() == mapping


def test_checksums_of_the_mappings_are_the_official_ones(monkeypatch):
  monkeypatch.undo()
  mappings = shared('label_mappings')
  for name, module in dict(pascal=pascal, nyud=nyud, cityscapes=cityscapes).items():
    infos = {info.filename: info for info in module.Builder.url_infos.values() if info.filename.endswith('.pth')}
    files = {path.name.removeprefix(f'{name}_'): path.read_bytes() for path in mappings.glob(f'{name}_*.pth')}
    assert set(infos) == set(files)
    assert set(infos) == set(module.Builder.OFFICIAL.values())
    for file, content in files.items():
      assert (infos[file].size, infos[file].checksum) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_list_of_scored_images_is_the_evaluators(monkeypatch):
  monkeypatch.undo()
  (info,) = [info for info in pascal.Builder.url_infos.values() if info.filename == pascal.LISTED]
  path = shared('edge_protocol/test_new.txt')
  assert (info.size, info.checksum) == (len(path.read_bytes()), hashlib.sha256(path.read_bytes()).hexdigest())
  ids = labels.read_scored(path)
  assert [sum(id.startswith(f'{year}_') for id in ids) for year in (2008, 2009, 2010)] == [1067, 666, 765]


def test_several_processes_keep_the_order(tmp_path):
  ids = [str(i) for i in range(100)]
  encoded = list(raw.encode_split(os.path.join, tmp_path, dict(train=ids), 'train', 2))
  assert encoded == [(i, f'{tmp_path}/{i}') for i in range(100)]


@pytest.mark.parametrize('processes', [1, 2])
def test_all_that_is_broken_is_found_in_one_run(tmp_path, processes):
  (tmp_path / 'a').mkdir()  # find_root of 'a' works, of others it raises UserError
  splits = dict(earlier=['x'], train=['a', 'first', *['a'] * 30], val=['a', 'second'])
  with pytest.raises(UserError, match="2 images have broken files: .*no 'first'.*no 'second'"):
    list(raw.encode_split(raw.find_root, tmp_path, splits, 'train', processes))
  stream = raw.encode_split(raw.find_root, tmp_path, splits, 'train', processes)
  assert [next(stream)[0] for _ in range(31)] == [0, *range(2, 32)]
  with pytest.raises(UserError):
    next(stream)  # val is only checked
