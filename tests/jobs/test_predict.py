"""The job `--mode=predict`: what it writes, and what it says of files that it cannot read."""

import io
import os

import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics import atomic, photographs
from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import images, raw_maps, videos
from dmtl_jax.jobs import predict, predict_record
from tests.predicting import photo, SAMPLES
from tests.tiny import TASKS

pytestmark = pytest.mark.usefixtures('short_encoder')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('in')
  sizes = {'a/x.JPG': (40, 50), 'b/x.png': (30, 200), 'größe 大.png': (150, 120), 'dot.png': (1, 1)}
  for name, size in sizes.items():
    (path / name).parent.mkdir(exist_ok=True)
    Image.fromarray(photo(*size)).save(path / name)
  (path / 'broken.png').write_bytes(b'not an image')
  with videos.VideoWriter(path / 'walk.webm', 10) as writer:
    for n in range(3):
      writer.write(photo(40, 60, n))
  return path


def test_the_command_writes_what_the_api_gives(tiny_run, predictor, folder, tmp_path, capsys):
  out = tmp_path / 'out'
  assert predict.run(str(tiny_run), 'best', str(folder), str(out), SAMPLES) == 1  # one file was broken
  output = capsys.readouterr()
  assert output.err.count('skipped') == 1
  assert f'skipped: {folder}/broken.png' in output.err
  assert f'5 of 6 files predicted: panels in {out}' in output.out
  assert 'predicting' in output.err
  names = {'a_x': 'a/x.JPG', 'b_x': 'b/x.png', 'größe 大': 'größe 大.png', 'dot': 'dot.png'}
  assert {p.name for p in out.glob('*.*')} == {f'{n}.png' for n in names} | {
    f'walk{videos.suffix()}',
    predict_record.NAME,
  }
  for name, file in names.items():
    maps, uncertainty = predictor.sample(folder / file, SAMPLES)
    for task in TASKS:
      for place, values in ((task.name, maps[task.name]), (f'uncertainty/{task.name}', uncertainty[task.name])):
        stored = values.astype(np.float16) if place == 'normals' else values
        np.testing.assert_array_equal(np.load(out / place / f'{name}.npy'), stored)
      shown = Image.open(out / task.name / f'{name}.png')
      assert shown.width >= maps[task.name].shape[1]
      assert shown.height > maps[task.name].shape[0]
      assert (out / 'uncertainty' / task.name / f'{name}.png').exists()
  for place in ('', *(task.name for task in TASKS)):
    assert len(list(images.Video(out / place / f'walk{videos.suffix()}'))) == 3
  assert not [p for p in out.rglob('*') if p.name.startswith('.') or p.name.startswith('broken')]


def test_arrays_are_written_in_bands_as_numpy_writes_them(predictor, tmp_path, monkeypatch):
  monkeypatch.setattr(raw_maps, 'BAND', 150)
  raw = predictor.raw(photo(37, 50))
  predict.save(raw, (37, 50), {}, tmp_path, 'a')
  for task in TASKS:
    values = raw.prediction('final', task, (37, 50))
    stored = io.BytesIO()
    np.save(stored, values.astype(np.float16) if task.kind == 'normals' else values)
    assert (tmp_path / task.name / 'a.npy').read_bytes() == stored.getvalue()


@pytest.fixture
def loaded(predictor, monkeypatch):
  """The command finds the run restored."""
  monkeypatch.setattr(predict, 'load', lambda workdir, which: predictor)


def test_the_command_again_and_without_fault(tiny_run, loaded, folder, tmp_path, capsys):
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos' / 'a.png').write_bytes((folder / 'dot.png').read_bytes())
  for _ in range(2):
    assert predict.run(str(tiny_run), 'best', str(tmp_path / 'photos'), str(tmp_path / 'maps')) == 0
    assert '1 of 1 file predicted' in capsys.readouterr().out
  assert np.load(tmp_path / 'maps' / 'depth' / 'a.npy').shape == (1, 1)
  assert not (tmp_path / 'maps' / 'uncertainty').exists()


def test_temporary_files_of_a_killed_run_are_removed_and_no_others(tiny_run, loaded, folder, tmp_path, monkeypatch):
  place = tmp_path / 'maps' / 'uncertainty' / 'depth'
  place.mkdir(parents=True)
  left = {'.0123456789abcdef.tmp', '.0123456789abcdef.tmp.mp4'}
  others = {'.mine.tmp', 'x.tmp', '.0123456789abcdef.mp4'}
  for name in left | others:
    (place / name).touch()
    os.utime(place / name, (0, 0))  # as a hard link to an old photograph, which is new all the same

  def predict_again() -> set[str]:
    predict.run(str(tiny_run), 'best', str(folder / 'dot.png'), str(tmp_path / 'maps'))
    return {path.name for path in place.iterdir()}

  assert predict_again() == left | others
  monkeypatch.setattr(atomic, 'ABANDONED', -1)
  assert predict_again() == others


def test_when_nothing_can_be_read(tiny_run, loaded, folder, tmp_path, capsys):
  assert predict.run(str(tiny_run), 'best', str(folder / 'broken.png'), str(tmp_path / 'out')) == 1
  output = capsys.readouterr()
  assert '0 of 1 file predicted' in output.out
  assert 'panels' not in output.out


def test_photographs_of_other_formats_are_counted_and_named(loaded, tiny_run, folder, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(photographs, 'extra_formats', lambda: ())
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos' / 'IMG_0.png').write_bytes((folder / 'dot.png').read_bytes())
  for name in ('IMG_1.HEIC', 'IMG_2.HEIC', 'IMG_0.HEIC'):  # a phone writes both of one picture
    (tmp_path / 'photos' / name).write_bytes(b'ftypheic')
  out = tmp_path / 'maps'
  assert predict.run(str(tiny_run), 'best', str(tmp_path / 'photos'), str(out)) == 1
  output = capsys.readouterr()
  assert '1 of 4 files predicted' in output.out
  assert (out / 'IMG_0.png').exists()
  assert output.err.count('skipped') == 1
  assert 'skipped: 3 of 4 files are HEIC (IMG_0.HEIC, IMG_1.HEIC, IMG_2.HEIC), which is not read' in output.err
  (tmp_path / 'photos' / 'IMG_0.png').unlink()
  with pytest.raises(UserError, match='--images: 3 of 3 files are HEIC'):
    predict.run(str(tiny_run), 'best', str(tmp_path / 'photos'), str(out))


def test_the_longest_names(loaded, tiny_run, folder, tmp_path):
  """255 bytes, as many as a file's name has."""
  (tmp_path / 'photos').mkdir()
  name = 'ố' * 83 + 'xx'
  (tmp_path / 'photos' / f'{name}.png').write_bytes((folder / 'dot.png').read_bytes())
  assert predict.run(str(tiny_run), 'best', str(tmp_path / 'photos'), str(tmp_path / 'maps')) == 0
  assert {path.stem for path in (tmp_path / 'maps').rglob('*.*')} == {name, 'predicted'}


def test_a_folder_that_cannot_be_written(tiny_run, loaded, folder, tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='file/maps: Not a directory; fix that.*: 0 of 1 image predicted in'):
    predict.run(str(tiny_run), 'best', str(folder / 'dot.png'), str(tmp_path / 'file' / 'maps'))
