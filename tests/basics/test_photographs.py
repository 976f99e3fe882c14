"""One reader for training, evaluation and prediction: pixels by hand, in all that files of photographs hold."""

import io
import pathlib
import subprocess
import sys
import types

import cv2
from ml_collections import ConfigDict
import numpy as np
from PIL import Image, TiffImagePlugin
import pytest

from dmtl_jax.basics import photographs
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import transforms
from dmtl_jax.datasets import folder
from dmtl_jax.inference import images
from tests import toy

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (6, 8, 3), np.uint8)
ALPHA = RNG.choice(np.uint8([0, 255]), (6, 8, 1))
ORIENTATION = 0x0112
# What a viewer does to stored pixels, of EXIF's orientations 1 to 8.
TURNS = [
  lambda a: a,
  lambda a: a[:, ::-1],
  lambda a: np.rot90(a, 2),
  lambda a: a[::-1],
  lambda a: a.swapaxes(0, 1),
  lambda a: np.rot90(a, -1),
  lambda a: np.rot90(a, 2).swapaxes(0, 1),
  lambda a: np.rot90(a),
]


def smooth(height, width):
  """Colours that JPEG changes little."""
  y, x = np.mgrid[:height, :width]
  return np.stack([40 + 2 * y, 60 + 3 * x, 200 - y - x], -1).astype(np.uint8)


def write_folder(root: pathlib.Path, name: str, data: bytes, size: tuple[int, int]):
  """A folder data set of one image file with a saliency label."""
  for place in ('images', 'labels/saliency'):
    (root / 'train' / place).mkdir(parents=True)
  (root / 'train/images' / name).write_bytes(data)
  cv2.imwrite(str(root / f'train/labels/saliency/{pathlib.Path(name).stem}.png'), np.zeros(size, np.uint8))
  (root / 'dataset.json').write_text('{"tasks": {"saliency": {}}}')


def as_inputs(path: pathlib.Path) -> list[np.ndarray]:
  """The pixels of an image in training, in evaluation and in prediction, as the network gets them."""
  root = path.parent / f'{path.name} as data'
  shown = photographs.read_image(path)
  size = shown.shape[:2]
  config = ConfigDict({'data': {'size': size, 'augment': 'none'}, 'eval': {'geometry': 'fit'}})
  write_folder(root, path.name, path.read_bytes(), size)
  (root / 'val').symlink_to('train')
  train, val = (folder.open_folder(str(root), split) for split in ('train', 'val'))
  ready = [
    transforms.train_transform(config.data, train.tasks)(train[0], np.random.default_rng(0)),
    transforms.eval_transform(config.data, config.eval.geometry, val.tasks)(val[0]),
    transforms.finish(shown, {}, size, 0),
  ]
  return [example['image'] for example in ready]


def palette():
  """An image of three colours by palette, and its colours."""
  index = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
  colors = np.uint8([[10, 20, 30], [40, 50, 60], [70, 80, 90]])
  image = Image.fromarray(index)
  image.putpalette(colors.ravel().tolist())
  return image, colors[index]


GREY = COLORS[..., :1]
INDEXED, INDEXED_COLORS = palette()
# Of each mode: an image, options to save it with, and what a viewer shows.
IMAGES = {
  'RGB': (Image.fromarray(COLORS), {}, COLORS),
  'L': (Image.fromarray(GREY[..., 0]), {}, GREY),
  'RGBA': (Image.fromarray(np.concatenate([COLORS, ALPHA], -1)), {}, np.where(ALPHA == 255, COLORS, 255)),
  'LA': (Image.fromarray(np.concatenate([GREY, ALPHA], -1)), {}, np.where(ALPHA == 255, GREY, 255)),
  'P': (INDEXED, {}, INDEXED_COLORS),
  'P with transparency': (
    INDEXED, {'transparency': 1}, np.where(INDEXED_COLORS[..., :1] == 40, 255, INDEXED_COLORS)
  ),
  '1': (Image.fromarray(GREY[..., 0] > 127), {}, (GREY > 127) * np.uint8(255)),
  'I;16': (Image.fromarray(GREY[..., 0].astype(np.uint16) * 256 + 77), {}, GREY),
  'colour for transparent': (
    Image.fromarray(COLORS), {'transparency': tuple(COLORS[2, 3].tolist())},
    np.where((COLORS[2, 3] == COLORS).all(-1, keepdims=True), 255, COLORS),
  ),
}  # fmt: skip
MODES = {
  'png': ['RGB', 'L', 'RGBA', 'LA', 'P', 'P with transparency', '1', 'I;16', 'colour for transparent'],
  'tif': ['RGB', 'L', 'RGBA', 'LA', 'P', '1', 'I;16'],
  'webp': ['RGB', 'RGBA'],
  'gif': ['P', 'P with transparency'],
}


@pytest.mark.parametrize('suffix, name', [(suffix, name) for suffix, names in MODES.items() for name in names])
def test_modes(suffix, name, tmp_path):
  image, options, expected = IMAGES[name]
  image.save(tmp_path / f'a.{suffix}', **options | ({'lossless': True, 'exact': True} if suffix == 'webp' else {}))
  for pixels in as_inputs(tmp_path / f'a.{suffix}'):
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, COLORS.shape))


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
  alpha = RNG.integers(0, 256, (6, 8, 1), np.uint8)
  Image.fromarray(np.concatenate([COLORS, alpha], -1)).save(tmp_path / 'a.png')
  share = alpha / 255
  for pixels in as_inputs(tmp_path / 'a.png'):
    np.testing.assert_allclose(pixels, COLORS * share + 255 * (1 - share), atol=1)


@pytest.mark.parametrize('suffix', ['png', 'webp', 'tif', 'jpg'])
def test_orientations(suffix, tmp_path):
  """All eight, in all formats whose EXIF data people's programs write."""
  stored = np.repeat(np.repeat(smooth(3, 4) // 2 + RNG.integers(0, 128, (3, 4, 3), np.uint8), 8, 0), 8, 1)
  for number, turn in enumerate(TURNS, 1):
    exif, path = Image.Exif(), tmp_path / f'{number}.{suffix}'
    exif[ORIENTATION] = number
    options = {'webp': {'lossless': True}, 'jpg': {'quality': 100, 'subsampling': 0}}.get(suffix, {})
    Image.fromarray(stored).save(path, exif=exif, **options)
    expected = turn(stored)
    for pixels in as_inputs(path):
      np.testing.assert_allclose(pixels.astype(int), expected, atol=3 if suffix == 'jpg' else 0, err_msg=str(number))


INKS = np.broadcast_to(np.uint8([30, 90, 160, 60]), (16, 16, 4))


@pytest.mark.parametrize('image, expected', [
  (Image.fromarray(smooth(16, 16)[..., 0]), smooth(16, 16)[..., :1]),
  (Image.fromarray(smooth(16, 16)), smooth(16, 16)),
  (Image.fromarray(INKS, 'CMYK'), (255.0 - INKS[..., :3]) * (255 - INKS[..., 3:]) / 255),
], ids=['L', 'RGB', 'CMYK'])  # fmt: skip
def test_jpeg(image, expected, tmp_path):
  """CMYK as printers' programs write it; for a screen a colour is (255 - C) (255 - K) / 255."""
  image.save(tmp_path / 'a.jpg', quality=100, subsampling=0)
  for pixels in as_inputs(tmp_path / 'a.jpg'):
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(expected, (16, 16, 3)), atol=3)


@pytest.mark.parametrize('least, divisor', [
  ((16, 24), 8), ((17, 24), 4), ((32, 49), 2), ((65, 20), 1),
])  # fmt: skip
def test_a_jpeg_is_reduced_to_the_means_of_its_blocks(least, divisor, tmp_path):
  """All orientations; 128x192 pixels as shown, so that the last two turn `least` too."""
  coarse = RNG.integers(40, 216, (16, 24, 3)).astype(np.uint8)
  shown = cv2.resize(coarse, (192, 128), interpolation=cv2.INTER_CUBIC)
  for number, turn in enumerate(TURNS, 1):
    exif = Image.Exif()
    exif[ORIENTATION] = number
    stored = next(image for image in (back(shown) for back in TURNS) if np.array_equal(turn(image), shown))
    Image.fromarray(stored).save(tmp_path / 'a.jpg', exif=exif, quality=98, subsampling=0)
    pixels = photographs.read_image(tmp_path / 'a.jpg', least)
    blocks = shown.reshape(128 // divisor, divisor, 192 // divisor, divisor, 3).mean((1, 3))
    assert pixels.shape == blocks.shape
    assert np.abs(pixels - blocks).mean() < 2.5, number


@pytest.mark.parametrize('name, size', [('a.png', (64, 96)), ('a.jpg', (63, 96)), ('a.jpg', (64, 97))])
def test_other_images_and_sides_that_two_does_not_divide_are_not_reduced(name, size, tmp_path):
  Image.fromarray(smooth(*size)).save(tmp_path / name)
  assert photographs.read_image(tmp_path / name, (4, 4)).shape[:2] == size


def test_a_damaged_jpeg_is_refused_where_it_is_reduced_too(tmp_path):
  data = io.BytesIO()
  Image.fromarray(RNG.integers(0, 256, (64, 96, 3)).astype(np.uint8)).save(data, 'JPEG')
  (tmp_path / 'a.jpg').write_bytes(data.getvalue()[:-2000])
  with pytest.raises(UserError, match='a damaged JPEG'):
    photographs.read_image(tmp_path / 'a.jpg', (8, 12))


def test_only_training_reads_reduced_photographs(tmp_path):
  """Labels keep their size, also in a part of the source, and the transform brings both to one size."""
  data = io.BytesIO()
  Image.fromarray(smooth(64, 48)).save(data, 'JPEG')
  write_folder(tmp_path, 'a.jpg', data.getvalue(), (64, 48))
  config = ConfigDict({'size': (8, 6), 'augment': 'light'})
  source = folder.open_folder(str(tmp_path), 'train')
  least = transforms.least_size(config)
  assert least == (23, 17)
  for part in (source, source.subset([0])):
    assert part[0]['image'].shape[:2] == (64, 48)
    assert part.example(0, least)['image'].shape[:2] == (32, 24)
    assert part.example(0, least)['labels']['saliency'].shape[:2] == (64, 48)
  ready = transforms.train_transform(config, source.tasks)(source.example(0, least), np.random.default_rng(0))
  assert ready['image'].shape == (8, 6, 3)
  assert ready['labels']['saliency'].shape == (8, 6, 1)


@pytest.mark.parametrize('augment', ['pascal', 'mtan', 'none'])
def test_recipes_that_do_not_shrink_read_whole_photographs(augment):
  assert transforms.least_size(ConfigDict({'size': (8, 6), 'augment': augment})) is None


def test_jpeg_is_decoded_as_libjpeg_does(tmp_path):
  """Against OpenCV's libjpeg-turbo: training on JPEGs goes on with the same bits as before."""
  large = cv2.resize(COLORS, (123, 77), interpolation=cv2.INTER_CUBIC)
  for n, options in enumerate(
    [{'quality': 80}, {'quality': 60, 'progressive': True}, {'quality': 90, 'subsampling': 1}]
  ):
    Image.fromarray(large).save(tmp_path / f'{n}.jpg', **options)
    expected = cv2.cvtColor(cv2.imread(str(tmp_path / f'{n}.jpg')), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(photographs.read_image(tmp_path / f'{n}.jpg'), expected)


@pytest.mark.parametrize('suffix', ['gif', 'webp', 'png'])
def test_of_an_animation_the_first_frame_counts(suffix, tmp_path):
  first, second = (np.full((6, 8, 3), color, np.uint8) for color in (200, 20))
  options = {'lossless': True} if suffix == 'webp' else {}
  Image.fromarray(first).save(
    tmp_path / f'a.{suffix}', save_all=True, append_images=[Image.fromarray(second)], **options
  )
  for pixels in as_inputs(tmp_path / f'a.{suffix}'):
    np.testing.assert_array_equal(pixels, first)


# --- More than 8 bits ------------------------------------------------------------------------

DEEP = {
  'grey': lambda values: values[..., 0],
  'colours': lambda values: values,
  'alpha': lambda values: np.concatenate([values, np.full((6, 8, 1), 65535, np.uint16)], -1),
}


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('name', DEEP)
def test_16_bits_become_8_by_their_high_byte(suffix, name, tmp_path):
  values = RNG.integers(0, 65536, (6, 8, 3), np.uint16)
  kept = DEEP[name](values)
  assert cv2.imwrite(
    str(tmp_path / f'a.{suffix}'), kept[..., [2, 1, 0, 3][: kept.shape[2]]] if kept.ndim == 3 else kept
  )
  expected = values // 256 if name != 'grey' else (values[..., :1] // 256).repeat(3, -1)
  for pixels in as_inputs(tmp_path / f'a.{suffix}'):
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('name', DEEP)
@pytest.mark.parametrize('bits', [8, 10, 12, 14])
def test_fewer_bits_in_16_are_refused(suffix, name, bits, tmp_path, capfd):
  values = RNG.integers(0, 2**bits, (6, 8, 3)).astype(np.uint16)
  values[0, 0] = 2**bits - 1
  assert cv2.imwrite(str(tmp_path / f'a.{suffix}'), DEEP[name](values))
  with pytest.raises(UserError, match=f'a.{suffix}: its 16-bit numbers reach from .* to {2**bits - 1} only') as caught:
    photographs.read_image(tmp_path / f'a.{suffix}')
  assert f'multiply them by {2 ** (16 - bits)} if they are {bits}-bit numbers' in str(caught.value)
  assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('factor', [256, 257])
@pytest.mark.parametrize('shape', [(6, 8), (6, 8, 3)])
def test_dark_images_in_16_bits_stay_dark(factor, shape, tmp_path):
  """Night scenes that a program widened from 8 bits, and a black one."""
  dark = RNG.integers(0, 40, shape, np.uint8)
  for values in (dark, dark * 0):
    assert cv2.imwrite(str(tmp_path / 'a.png'), values.astype(np.uint16) * factor)
    shown = photographs.read_image(tmp_path / 'a.png')
    np.testing.assert_array_equal(
      shown if values.ndim == 2 else shown[..., ::-1], np.broadcast_to(values.reshape(6, 8, -1), (6, 8, 3))
    )


def test_grey_of_which_0_is_white(tmp_path):
  """TIFFs of scanners and radiographs; a viewer shows them turned round."""
  values = RNG.integers(0, 65536, (6, 8), np.uint16)
  tags = TiffImagePlugin.ImageFileDirectory_v2()
  tags[262] = 0
  Image.fromarray(values).save(tmp_path / 'a.tif', tiffinfo=tags)
  with Image.open(tmp_path / 'a.tif') as file:
    assert file.tag_v2[262] == 0
  np.testing.assert_array_equal(photographs.read_image(tmp_path / 'a.tif')[..., 0], (65535 - values) // 256)


# --- What is no photograph -------------------------------------------------------------------


def tiff(*tags: tuple[int, int, int], data: bytes = bytes(96)) -> bytes:
  """A TIFF of 4x4 pixels with these tags (number, type, value) beside its size, written by hand."""
  own = [(256, 3, 4), (257, 3, 4), (259, 3, 1), (273, 4, 8), (278, 3, 4), (279, 4, len(data))]
  entries = b''.join(
    np.array([tag, kind], '<u2').tobytes() + np.array([1, value], '<u4').tobytes()
    for tag, kind, value in sorted([*own, *tags])
  )
  count = np.array(len(own) + len(tags), '<u2').tobytes()
  return b'II*\0' + np.array(8 + len(data), '<u4').tobytes() + data + count + entries + bytes(4)


def saved(image: Image.Image, kind: str, **options) -> bytes:
  stream = io.BytesIO()
  image.save(stream, kind, **options)
  return stream.getvalue()


WHOLE = saved(Image.fromarray(RNG.integers(0, 256, (200, 300, 3), np.uint8)), 'JPEG', quality=90)
HALF = len(WHOLE) // 2
CUT_INKS = saved(Image.fromarray(RNG.integers(0, 256, (60, 80, 4), np.uint8), 'CMYK'), 'JPEG')
REFUSED = {
  'six channels': (tiff((258, 3, 8), (262, 3, 1), (277, 3, 6)), 'has 6 channels, 3 are needed'),
  'six channels, of which Pillow drops three': (
    saved(Image.fromarray(COLORS), 'TIFF').replace(np.array([277, 3, 1, 0, 3, 0], '<u2').tobytes(), np.array([277, 3, 1, 0, 6, 0], '<u2').tobytes()),
    'has 6 channels',
  ),
  'float grey': (saved(Image.fromarray(RNG.random((6, 8), np.float32)), 'TIFF'), 'floating-point'),
  'float colours': (tiff((258, 3, 32), (262, 3, 2), (277, 3, 3), (339, 3, 3)), 'floating-point'),
  'float colours by OpenCV': (cv2.imencode('.tif', RNG.random((6, 8, 3), np.float32))[1].tobytes(), 'floating-point'),
  'float of 64 bits': (cv2.imencode('.tif', RNG.random((6, 8)))[1].tobytes(), 'floating-point'),
  '32-bit': (tiff((258, 3, 32), (262, 3, 1), (277, 3, 1)), '32-bit numbers'),
  'signed': (tiff((258, 3, 16), (262, 3, 1), (277, 3, 1), (339, 3, 2)), 'signed numbers'),
  'JPEG cut short': (WHOLE[:HALF], 'a damaged JPEG (Premature end'),
  'JPEG without its second half': (WHOLE[:HALF] + b'\xff\xd9', 'a damaged JPEG (Corrupt JPEG data'),
  'JPEG with its end in the middle': (WHOLE[:HALF] + b'\xff\xd9' + WHOLE[HALF + 2 :], 'a damaged JPEG (Corrupt JPEG data'),
  'JPEG of four inks, with its end in the middle': (
    CUT_INKS[: len(CUT_INKS) // 2] + b'\xff\xd9' + CUT_INKS[len(CUT_INKS) // 2 + 2 :], 'a damaged JPEG (Corrupt JPEG data'
  ),
  'HEIC called JPEG': (b'\0\0\0\x18ftypheic' + bytes(90), 'is HEIC, which is not read; run pip install pillow-heif'),
  'nothing': (b'', 'the file is empty'),
  'text': (b'hello', 'unknown format'),
}  # fmt: skip


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_wrong_is_said_the_same_everywhere(name, tmp_path, monkeypatch, capfd):
  """In a sentence, and with no line of a library's."""
  monkeypatch.setattr(photographs, 'extra_formats', lambda: ())
  data, words = REFUSED[name]
  root = tmp_path / 'data'
  path = root / 'train/images/a.jpg'
  write_folder(root, path.name, data, (6, 8))
  capfd.readouterr()
  for read in (lambda: images.as_rgb(path), lambda: folder.open_folder(str(root), 'train')):
    with pytest.raises(UserError) as caught:
      read()
    assert str(caught.value).startswith(f'{path}: ')
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)
  output = ''.join(capfd.readouterr())
  assert not [line for line in output.splitlines() if not line.startswith('checking ')]


def test_bytes_after_the_last_pixel_do_no_harm_and_are_remarked(tmp_path, capfd):
  """Some cameras write them, and damage in the middle can leave them too: nothing tells the two apart, so files are named."""
  Image.fromarray(smooth(16, 16)).save(tmp_path / 'a.jpg')
  whole = (tmp_path / 'a.jpg').read_bytes()
  (tmp_path / 'b.jpg').write_bytes(whole[:-2] + bytes(40) + whole[-2:])
  np.testing.assert_array_equal(*(photographs.read_image(tmp_path / name) for name in ('a.jpg', 'b.jpg')))
  assert capfd.readouterr() == ('', '')
  extra = [name for name in ('a.jpg', 'b.jpg', 'b.png') if photographs.has_extra_bytes(tmp_path / name)]
  assert photographs.describe_extra_bytes(extra).startswith('b.jpg: bytes are left over behind the last pixel')


def test_an_odd_header_is_no_damage(tmp_path):
  """JFIF of a version that libjpeg does not know; it warns, and reads it."""
  data = saved(Image.fromarray(smooth(16, 16)), 'JPEG')
  assert data[6:12] == b'JFIF\0\1'
  (tmp_path / 'a.jpg').write_bytes(data)
  (tmp_path / 'b.jpg').write_bytes(data[:11] + b'\x09' + data[12:])
  np.testing.assert_array_equal(*(photographs.read_image(tmp_path / name) for name in ('a.jpg', 'b.jpg')))


def test_a_folder_with_such_jpegs_opens_and_names_them_each_time(tmp_path, capsys):
  toy.write(tmp_path / 'data', 2, 1)
  for name in ('train00', 'train01'):
    path = tmp_path / f'data/train/images/{name}.png'
    Image.open(path).save(path.with_suffix('.jpg'))
    path.unlink()
  whole = path.with_suffix('.jpg').read_bytes()
  path.with_suffix('.jpg').write_bytes(whole[:-2] + bytes(40) + whole[-2:])
  for _ in range(2):  # the second time from the cache
    assert len(folder.open_folder(str(tmp_path / 'data'), 'train')) == 2
    assert 'train/images: train01.jpg: bytes are left over' in capsys.readouterr().out


def test_workers_read_without_jax_and_without_a_word(tmp_path):
  """Damaged EXIF data are passed over, as viewers do."""
  Image.fromarray(COLORS).save(tmp_path / 'a.png', exif=b'Exif\0\0II*\0\x08\0\0\0\xff\xff' + bytes(5))
  code = 'import sys; from dmtl_jax.basics import photographs; x = photographs.read_image(sys.argv[1]); '
  code += 'sys.exit("jax" in sys.modules or x.tobytes().hex() != sys.argv[2])'
  done = subprocess.run([sys.executable, '-c', code, tmp_path / 'a.png', COLORS.tobytes().hex()], capture_output=True)
  assert (done.returncode, done.stdout, done.stderr) == (0, b'', b'')


# --- Formats that are not read ---------------------------------------------------------------


@pytest.fixture
def without_heif(monkeypatch):
  monkeypatch.setattr(photographs, 'extra_formats', lambda: ())


def test_formats_that_are_not_read_are_counted_and_named(without_heif):
  paths = [pathlib.Path(name) for name in ('a.JPG', 'b.HEIC', 'c.heic', 'd.png', 'e.heif', 'f.hif')]
  assert photographs.unsupported_files(paths) == (
    '4 of 6 files are HEIC (b.HEIC, c.heic, e.heif and 1 more), which is not read; '
    'run pip install pillow-heif, or convert them to JPEG or PNG'
  )
  assert photographs.unsupported_files([paths[0], paths[3]]) == ''
  message = photographs.unsupported_files([pathlib.Path('x.cr2'), pathlib.Path('y.psd')])
  assert message == '2 of 2 files are camera RAW and PSD (x.cr2, y.psd), which is not read; convert them to JPEG or PNG'


def test_a_folder_of_data_says_how_many(without_heif, tmp_path):
  (tmp_path / 'train/images').mkdir(parents=True)
  for name in ('a.jpg', 'b.HEIC', 'c.dng'):
    (tmp_path / 'train/images' / name).touch()
  (tmp_path / 'dataset.json').write_text('{"tasks": {"saliency": {}}}')
  with pytest.raises(UserError, match=r'train/images: 2 of 3 files are HEIC and camera RAW \(b.HEIC, c.dng\)'):
    folder.open_folder(str(tmp_path), 'train')


def test_prediction_finds_them(without_heif, tmp_path):
  for name in ('b.HEIC', 'c.nef', 'notes.txt'):
    (tmp_path / name).touch()
  with pytest.raises(UserError, match='--images: 2 of 2 files are HEIC and camera RAW'):
    images.find_images(str(tmp_path))
  (tmp_path / 'a.jpg').touch()
  assert [path.name for path in images.find_images(str(tmp_path))] == ['a.jpg', 'b.HEIC', 'c.nef']


def test_with_pillow_heif_heic_is_an_image_like_others(tmp_path, monkeypatch):
  """A stand-in for the package: the file holds what its opener reads."""

  def register():
    from PIL import PngImagePlugin

    class File(PngImagePlugin.PngImageFile):
      format = 'HEIF'

    Image.register_open('HEIF', File, lambda head: head[:8] == b'\x89PNG\r\n\x1a\n')

  monkeypatch.setitem(sys.modules, 'pillow_heif', types.SimpleNamespace(register_heif_opener=register))
  photographs.extra_formats.cache_clear()
  try:
    (tmp_path / 'a.heic').write_bytes(saved(Image.fromarray(COLORS), 'PNG'))
    assert '.heic' in photographs.suffixes()
    assert photographs.unsupported_format('a.heic') is None
    for pixels in as_inputs(tmp_path / 'a.heic'):
      np.testing.assert_array_equal(pixels, COLORS)
  finally:
    photographs.extra_formats.cache_clear()
    Image.OPEN.pop('HEIF', None)
    Image.ID.remove('HEIF')


def test_real_heic(tmp_path):
  heif = pytest.importorskip('pillow_heif', reason='pillow-heif, the extra `heif`, is not installed')
  stored = smooth(64, 96)
  heif.from_pillow(Image.fromarray(stored)).save(tmp_path / 'a.heic', quality=95)
  photographs.extra_formats.cache_clear()
  for pixels in as_inputs(tmp_path / 'a.heic'):
    np.testing.assert_allclose(pixels.astype(int), stored, atol=8)
