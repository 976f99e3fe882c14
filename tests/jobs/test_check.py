"""`--mode=check` on a small folder: what it holds against counts by hand, what is wrong with it, its picture."""

import json
import shutil

import cv2
import numpy as np
from PIL import Image
import pytest
from scipy import ndimage

from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import folder
from dmtl_jax.data import pipeline
from dmtl_jax.draw import legends, panels
from dmtl_jax.jobs import check
from tests import toy


@pytest.fixture
def config(tmp_path, monkeypatch):
  monkeypatch.setattr(check.recipe, 'lines', lambda *_: [])  # test_recipe.py
  toy.write(tmp_path / 'toy', 4, 2)
  config = folder.get_config()
  config.data.path, config.data.size, config.train.batch = str(tmp_path / 'toy'), (64, 96), 4
  return config


def test_what_a_folder_holds_is_printed_and_drawn(config, tmp_path, capsys):
  train = tmp_path / 'toy' / 'train'
  cv2.imwrite(str(train / 'images/train03.png'), np.zeros((10, 20, 3), np.uint8))
  for path in (train / 'labels').glob('*/train03.*'):
    path.unlink()
  cv2.imwrite(str(train / 'labels/semseg/train03.png'), np.repeat(np.uint8([0, 1, 1, 255]), 50).reshape(10, 20))
  (tmp_path / 'toy/val/labels/semseg/val01.png').unlink()
  for path in (tmp_path / 'toy/val/labels/depth').iterdir():
    path.unlink()
  assert check.run(config, str(tmp_path / 'page.png')) == 0
  output = capsys.readouterr().out
  assert 'train: 4 images\n  size: 96x64 (3), 20x10 (1)\n' in output
  labels = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in (train / 'labels/semseg').iterdir()]
  pixels = np.concatenate([label.ravel() for label in labels])
  wall, box, whole = (pixels == 0).sum(), (pixels == 2).sum(), (pixels != 255).sum()
  assert f'semseg: 4 labels, {100 * whole / len(pixels):.3g}% of their pixels labelled: ' in output
  assert f'wall {100 * wall / whole:.3g}%' in output
  assert f'box {100 * box / whole:.3g}%' in output
  assert 'a batch of 4 images holds 16 pairs of image and task, and has room for 20' in output  # 3 x 5 and 1 of 4
  assert 'loss weights: semseg 2, saliency 5, boundary 25, normals 3, depth 1\n' in output
  assert 'validated on 2 images: semseg 1,' in output
  assert 'depth: no validation label, so no score' in output
  assert np.asarray(Image.open(tmp_path / 'page.png')).shape[0] > 4 * 107


def test_suspicious_pixels_are_counted(config, tmp_path, capsys):
  """Depth in metres; a largest number that may mean *no measurement*; vectors that are none."""
  labels = tmp_path / 'toy' / 'train/labels'
  depth = cv2.imread(str(labels / 'depth/train00.png'), cv2.IMREAD_UNCHANGED)
  depth[:32] = 65535  # 32 of 64 rows in one of 4 images
  cv2.imwrite(str(labels / 'depth/train00.png'), depth)
  normals = np.full((64, 96, 3), (255, 128, 128), np.uint8)  # BGR: towards the camera
  normals[:16] = 127
  for n in range(4):
    (labels / f'normals/train{n:02d}.npy').unlink()
    cv2.imwrite(str(labels / f'normals/train{n:02d}.png'), normals)
  assert check.run(config, str(tmp_path / 'page.png')) == 0
  output = capsys.readouterr().out.partition('val: ')[0]
  assert '100% of their pixels labelled, from 2 to 65.54 m\n' in output
  assert '12.5% of the pixels hold 65535 = 65.5 m: set "ignore": 65535 in dataset.json if that means no' in output
  assert (
    'normals: 4 labels, 75% of their pixels labelled\n    25% of the pixels are vectors far from unit length' in output
  )
  (tmp_path / 'toy/dataset.json').write_text(
    json.dumps({'tasks': toy.DESCRIPTION['tasks'] | {'depth': {'ignore': 65535}}})
  )
  check.run(config, str(tmp_path / 'page.png'))
  output = capsys.readouterr().out.partition('val: ')[0]
  assert '87.5% of their pixels labelled, from 2 to 4 m\n' in output
  assert 'hold 65535' not in output


@pytest.mark.parametrize('factor, warned', [(0.001, '0.00'), (1, ''), (1000, '00 m away')])
def test_unlikely_distances_are_reported(config, tmp_path, capsys, factor, warned):
  for path in (tmp_path / 'toy/train/labels/depth').glob('*.png'):
    metres = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) / 1000
    np.save(path.with_suffix('.npy'), (factor * metres).astype(np.float32))
    path.unlink()
  check.run(config, str(tmp_path / 'page.png'))
  lines = [line for line in capsys.readouterr().out.splitlines() if 'the farthest pixel is' in line]
  assert len(lines) == bool(warned)
  assert all(warned in line and '"scale" in dataset.json' in line for line in lines)


def test_masks_that_may_be_inverted_are_reported(config, tmp_path, capsys):
  check.run(config, str(tmp_path / 'page.png'))
  assert 'on most pixels' not in capsys.readouterr().out
  for path in (tmp_path / 'toy/train/labels/saliency').glob('*.png'):
    cv2.imwrite(str(path), 1 - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
  check.run(config, str(tmp_path / 'page.png'))
  assert capsys.readouterr().out.count("'yes' on most pixels is unlikely for saliency: if the files") == 1


@pytest.mark.parametrize('z, warned', [(0.8, False), (-0.8, True)])
def test_normals_away_from_the_camera_are_reported(config, tmp_path, capsys, z, warned):
  labels = tmp_path / 'toy' / 'train/labels/normals'
  for path in labels.iterdir():
    np.save(path, np.full((64, 96, 3), (0, 0.6, z), np.float32))
  check.run(config, str(tmp_path / 'page.png'))
  assert ('100% of the pixels point away from the camera; z must point towards it' in capsys.readouterr().out) == warned


def test_more_classes_than_channels_are_seen_before_the_sentence(config, tmp_path, capsys):
  classes = [f'c{i}' for i in range(34)]
  (tmp_path / 'toy/dataset.json').write_text(json.dumps({'tasks': {'semseg': {'classes': classes}}}))
  for split in ('train', 'val'):
    for path in (tmp_path / 'toy' / split / 'labels').iterdir():
      if path.name != 'semseg':
        shutil.rmtree(path)
  with pytest.raises(UserError, match='at least 68 for these tasks; set --config.model.channels=128, or'):
    check.run(config, str(tmp_path / 'page.png'))
  out = capsys.readouterr().out
  assert 'train: 4 images' in out
  assert 'c0 ' in out
  assert (tmp_path / 'page.png').exists()
  config.model.channels = 128
  assert check.run(config, str(tmp_path / 'page.png')) == 0


def test_everything_that_is_wrong_is_listed(config, tmp_path, capsys):
  train = tmp_path / 'toy' / 'train'
  for n in range(4):
    (train / f'labels/semseg/train{n:02d}.png').write_bytes(b'no')
  cv2.imwrite(str(train / 'labels/depth/train00.png'), np.full((64, 96), 9, np.uint8))
  (train / 'labels/depth/train00.npy').unlink(missing_ok=True)
  assert check.run(config, str(tmp_path / 'page.png')) == 1
  output = capsys.readouterr().out
  assert output.startswith('train: cannot be used\n')
  assert all(f'semseg/train{n:02d}.png' in output for n in range(4))
  assert 'depth/train00.png: holds 8-bit integers, too few for millimetres' in output
  assert 'val: 2 images' in output
  assert not (tmp_path / 'page.png').exists()


def test_labels_are_drawn_as_the_network_is_given_them(config, monkeypatch):
  """At half the size of the files, without padding; a line across the image is one line there too."""
  line = cv2.line(np.zeros((64, 96), np.uint8), (0, 5), (95, 60), 1)
  cv2.imwrite(f'{config.data.path}/train/labels/boundary/train01.png', line)
  config.data.size = (32, 64)
  source = check.source_lib.open_source(config.data, 'train')
  monkeypatch.setattr(check.panels, 'contact_sheet', lambda images, tasks, units: images)
  batch = next(iter(pipeline.eval_batches(source, config.data, config.eval.batch, config.eval.geometry)))
  for i, (id, image, labels) in enumerate(check.draw_labels(source, config)):
    assert id == source.ids[i]
    assert labels.keys() == source[i]['labels'].keys()
    assert np.abs(cv2.resize(source[i]['image'], (48, 32), interpolation=cv2.INTER_AREA) - image.astype(int)).max() <= 1
    for name, label in labels.items():
      np.testing.assert_array_equal(label, batch['labels'][name][i, :32, :48])
    if id == 'train01':
      mask = labels['boundary'][..., 0] == 1
      assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
      assert 46 <= mask.sum() <= 48


def test_the_legend_of_depth_names_metres(config, monkeypatch):
  texts = []
  draw = legends.Scale.draw

  def record(scale, width, size=1):
    texts.append(scale.high)
    return draw(scale, width, size)

  monkeypatch.setattr(legends.Scale, 'draw', record)
  check.draw_labels(check.source_lib.open_source(config.data, 'train'), config)
  assert [text for text in texts if text.startswith('> ')] == ['> 4 m']


def test_labels_are_drawn_over_their_own_image(config):
  source = check.source_lib.open_source(config.data, 'train')
  sheet = check.draw_labels(source, config)
  width, height = panels.tile_size(64, 96)
  assert sheet.shape[1] == 24 + 6 * (width + 6) - 6 + 10
  for row in range(4):
    top = 30 + row * (height + 6)
    tile = lambda column: sheet[top : top + height, 24 + column * (width + 6) :][:, :width]
    np.testing.assert_array_equal(tile(0)[::2, ::2], cv2.resize(source[row]['image'], (width, height))[::2, ::2])
    assert (tile(1) != tile(0)).mean() > 0.9  # classes cover it all
    salient = source[row]['labels']['saliency'][..., 0] == 1
    changed = (cv2.resize(tile(2), (96, 64)).astype(int) - source[row]['image']).any(-1)
    assert changed[salient].mean() > 0.9


def test_a_folder_without_dataset_json_is_described_and_on_request_checked(config, tmp_path, capsys):
  (tmp_path / 'toy/dataset.json').unlink()
  assert check.run(config, str(tmp_path / 'page.png')) == 1
  output = capsys.readouterr().out
  assert '"semseg": {"classes": ["class 0", "class 1", "class 2"]}' in output
  assert 'the same command with --write writes this to dataset.json' in output
  assert not (tmp_path / 'toy/dataset.json').exists()
  with pytest.raises(UserError, match='dataset.json: no such file; --mode=check with the same --config'):
    check.setup.check(config)
  assert check.run(config, str(tmp_path / 'page.png'), write=True) == 0
  assert 'train: 4 images\n' in capsys.readouterr().out


def test_unlabelled_and_held_out_images_are_counted(config, tmp_path, capsys):
  shutil.rmtree(tmp_path / 'toy/val')
  (tmp_path / 'toy/unlabelled').mkdir()
  for n in range(3):
    cv2.imwrite(str(tmp_path / f'toy/unlabelled/pool{n}.png'), np.full((64, 96, 3), 9 * n, np.uint8))
  assert check.run(config, str(tmp_path / 'page.png')) == 0
  output = capsys.readouterr().out
  assert 'train: 6 images\n' in output
  assert '  without a label: 3 images (pool0, pool1, pool2)\n' in output
  assert 'prediction on folder: 3 images, labels (full): semseg 3,' in output
  assert 'left out of batches: 3 images without a visible label; method=ss learns from these too' in output
  assert 'validated on 1 images, held out of the training images (0.2 of the labelled ones): semseg 1,' in output
  config.method = 'ss'
  check.run(config, str(tmp_path / 'page.png'))
  output = capsys.readouterr().out
  assert '3 of the images have no visible label; an epoch takes at most as many of these as labelled ones' in output
  assert 'a batch of 4 images holds 10 pairs of image and task' in output  # 15 labels in an epoch of 6 images
  for path in sorted((tmp_path / 'toy/train/labels/depth').iterdir())[1:]:
    path.unlink()
  check.run(config, str(tmp_path / 'page.png'))
  assert 'depth: no validation label, so no score; label a second image for it\n' in capsys.readouterr().out


def test_copies_of_training_images_in_val_are_named(config, tmp_path, capsys):
  source = cv2.imread(f'{config.data.path}/train/images/train02.png')
  for task in ('semseg', 'saliency', 'boundary', 'normals', 'depth'):
    for path in (tmp_path / f'toy/val/labels/{task}').glob('val01.*'):
      path.unlink()
  small = cv2.resize(source, (48, 32), interpolation=cv2.INTER_AREA)
  cv2.imwrite(f'{config.data.path}/val/images/val01.png', small)
  check.run(config, str(tmp_path / 'page.png'))
  assert '1 of 2 validation images are training images too' in (output := capsys.readouterr().out)
  assert 'remove one of each: train02 = val01\n' in output
