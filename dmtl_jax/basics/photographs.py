"""Photographs as people have them: the one reader of training, evaluation, checks and prediction.

An image is what a viewer shows: turned as EXIF says, transparent pixels laid on white, palettes looked up, grey
repeated, CMYK converted, of an animation the first frame. What would come out otherwise is refused in a sentence.
Workers of the input pipeline read with this, so it knows nothing of jax.
"""

import collections
from collections.abc import Iterable
import contextlib
import functools
import importlib
import os
import pathlib
import warnings

import cv2
import numpy as np
from PIL import features, Image, TiffImagePlugin, UnidentifiedImageError
import simplejpeg

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import listed, UserError

FORMATS = (*files.IMAGE_FORMATS, 'GIF', 'PPM', 'JPEG2000')  # Pillow would run Ghostscript for others
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.ppm', '.pgm', '.jp2')
# Photographs that are read where something else is installed: Pillow's name of the format, and how to get it.
EXTRA_FORMATS = {'HEIF': 'pip install pillow-heif', 'AVIF': 'pip install --upgrade pillow'}
EXTRA_SUFFIXES = {'.heic': 'HEIF', '.heif': 'HEIF', '.hif': 'HEIF', '.avif': 'AVIF'}
# Photographs that are never read. They are counted and named, where a text file among images is passed over.
RAW_SUFFIXES = '.3fr .arw .cr2 .cr3 .crw .dng .erf .iiq .kdc .mrw .nef .nrw .orf .pef .raf .raw .rw2 .sr2 .srf .x3f'
OTHER_SUFFIXES: dict[str, str] = {'.psd': 'PSD', '.jxl': 'JPEG XL', '.exr': 'OpenEXR'}
OTHER_SUFFIXES |= dict.fromkeys(RAW_SUFFIXES.split(), 'camera RAW')

DARK = 2**14  # of 16 bits: cameras have 14 at most, which would be at most a quarter of white
_SAMPLES, _BITS, _SAMPLE_FORMAT, _PHOTOMETRIC, _ORIENTATION = 277, 258, 339, 262, 274  # tags of TIFF and EXIF
_LEFT_OVER = 'extraneous bytes before marker 0xd9'  # which ends an image; in libjpeg's words, as the next ones
_DAMAGE = ('Corrupt JPEG data', 'Premature end', 'Inconsistent progression')
_read_with_left_over: set[str] = set()  # paths
_BRANDS = {b'avif': 'AVIF', b'avis': 'AVIF'} | dict.fromkeys(
  (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1'), 'HEIF'
)

# The lines of these libraries would name no file. What cannot be read is said by us.
(getattr(cv2, 'setLogLevel', None) or cv2.utils.logging.setLogLevel)(0)  # of OpenCV 4, of 5
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')  # of damaged EXIF data
warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)  # `files.opened_image` looks at the claims


# --- Which files -----------------------------------------------------------------------------


@functools.cache
def extra_formats() -> tuple[str, ...]:
  """Which of `EXTRA_FORMATS` can be read here."""
  found = []
  with contextlib.suppress(ImportError):
    importlib.import_module('pillow_heif').register_heif_opener()
    found.append('HEIF')
  if 'avif' in features.get_supported():
    found.append('AVIF')
  return tuple(found)


def suffixes() -> tuple[str, ...]:
  """Suffixes of the images that can be read here, in lower case."""
  return (*SUFFIXES, *(suffix for suffix, name in EXTRA_SUFFIXES.items() if name in extra_formats()))


def unsupported_format(path: str | os.PathLike) -> str | None:
  """The format of a photograph that cannot be read here, by the file's suffix; None for other files."""
  suffix = pathlib.Path(path).suffix.lower()
  name = EXTRA_SUFFIXES.get(suffix)
  return OTHER_SUFFIXES.get(suffix) if name is None or name in extra_formats() else _titled(name)


def unsupported_files(paths: Iterable[pathlib.Path]) -> str:
  """'4 of 6 files are HEIC (a.heic, b.heic and 2 more), which is not read; ...' with the fix; '' of readable files."""
  paths = list(paths)
  unread = {path: name for path in paths if (name := unsupported_format(path))}
  if not unread:
    return ''
  counts = collections.Counter(unread.values())
  what = ' and '.join(counts) if len(counts) < 3 else listed(list(counts))
  fix = ''.join(f'{fix}, or ' for name, fix in EXTRA_FORMATS.items() if _titled(name) in counts)
  names = listed([path.name for path in unread])
  return (
    f'{len(unread)} of {len(paths)} files are {what} ({names}), which is not read; {fix}convert them to JPEG or PNG'
  )


def _titled(name: str) -> str:
  """A format as people call it."""
  return 'HEIC' if name == 'HEIF' else name


# --- Reading ---------------------------------------------------------------------------------


def read_image(path: str | os.PathLike) -> np.ndarray:
  """An image file as a viewer shows it: uint8 [H, W, 3] RGB.

  16 bits a channel become 8 by their high byte.

  Raises:
    UserError: the file is missing, empty, no image, damaged or cut short; its pixels are floating-point or 32-bit
      numbers or have more than 4 channels; or its 16-bit numbers hold so few bits that it would be nearly black.
  """
  try:
    return _decode(path)
  except FileNotFoundError:
    raise UserError(f'{path}: no such file') from None
  except UserError:
    raise
  except Exception as error:  # Pillow has no common error: OSError, SyntaxError, struct.error, KeyError, ...
    raise UserError(f'{path}: not a readable image ({files.reason(error)}); replace it or convert it to PNG') from error


def _decode(path: str | os.PathLike) -> np.ndarray:
  if not os.path.getsize(path):
    raise ValueError('the file is empty')
  try:
    with files.opened_image(path, (*FORMATS, *extra_formats())) as file:
      if isinstance(file, TiffImagePlugin.TiffImageFile):
        _check_tiff(file.tag_v2, path)  # Pillow drops channels beyond the fourth of some
      if file.format in ('JPEG', 'MPO'):
        pixels = _decode_jpeg(path, 'CMYK' if file.mode == 'CMYK' else 'RGB')
        if pixels is not None and file.mode != 'CMYK':  # which has two ways of writing no ink, and Pillow knows them
          return _upright(pixels, file)
      file.load()
      if file.mode in ('RGB', 'RGBX', 'RGBA', 'LA') and file.format in ('PNG', 'TIFF', 'JPEG2000'):
        _check_high_bytes(file, path)
      return to_rgb(file, path)
  except UnidentifiedImageError:
    _explain_unknown(path)
    raise


def to_rgb(image: Image.Image, name: object = 'image') -> np.ndarray:
  """A Pillow image as `read_image` gives it; `name` stands in the error."""
  image.load()
  if image.mode.startswith('I'):
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
      raise UserError(f'{name}: pixels beyond 16 bits; convert it to an 8- or 16-bit image')
    _check_range(values, name)
    if getattr(image, 'tag_v2', {}).get(_PHOTOMETRIC) == 0:  # 0 is white; of 8 bits Pillow knows it
      values = 65535 - values
    return _upright(cv2.cvtColor((values >> 8).astype(np.uint8), cv2.COLOR_GRAY2RGB), image)
  if image.mode == 'F':
    raise UserError(f'{name}: pixels are floating-point numbers; convert it to an 8- or 16-bit image')
  shown = image
  if image.has_transparency_data:
    shown = image.convert('RGBA')
    shown = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), shown)
  return _upright(np.array(shown if shown.mode == 'RGB' else shown.convert('RGB')), image)


def _upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
  """The pixels turned as the EXIF data of their image say (Pillow turns TIFFs itself, and takes it out of them)."""
  try:
    orientation = image.getexif().get(_ORIENTATION)
  except Exception:  # as in `read_image`; a viewer shows images whose EXIF data are damaged
    return pixels
  if orientation in (5, 6, 7, 8):
    pixels = cv2.transpose(pixels)
  flips = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # OpenCV's codes
  return cv2.flip(pixels, flips[orientation]) if orientation in flips else pixels


def _decode_jpeg(path: str | os.PathLike, colors: str) -> np.ndarray | None:
  """By libjpeg-turbo itself, which says where data are damaged: Pillow passes over it, OpenCV prints a line.

  None where it says something else, of the version in the header or of a way of coding that it does not have.
  """
  data = pathlib.Path(path).read_bytes()
  try:
    return simplejpeg.decode_jpeg(data, colors)
  except ValueError as error:
    if _LEFT_OVER in str(error):
      _read_with_left_over.add(os.fspath(path))
      return simplejpeg.decode_jpeg(data, colors, strict=False)
    if str(error).startswith(_DAMAGE):
      raise UserError(f'{path}: a damaged JPEG ({files.reason(error)}); copy it again or replace it') from error
    return None


def left_over(paths: Iterable[pathlib.Path]) -> str:
  """A remark on JPEGs with bytes between the last pixel and the end of the image; '' where there are none.

  Some cameras write them, and they do no harm; but damage in the middle leaves them too, and nothing else tells it.

  Args:
    paths: of images that this process has read.
  """
  names = [path.name for path in paths if os.fspath(path) in _read_with_left_over]
  what = 'which some cameras write and damage leaves too; look whether the images are whole'
  return f'{listed(names)}: bytes are left over behind the last pixel, {what}' if names else ''


def _explain_unknown(path: str | os.PathLike):
  """Raises UserError where a file that Pillow does not know is of a format known to us."""
  with open(path, 'rb') as file:
    head = file.read(16)
    name = _BRANDS.get(head[8:12]) if head[4:8] == b'ftyp' else None
    if name and name not in extra_formats():
      raise UserError(f'{path}: is {_titled(name)}, which is not read; {EXTRA_FORMATS[name]}, or convert it to JPEG')
    if head[:4] in (b'II*\0', b'MM\0*'):
      tags = TiffImagePlugin.ImageFileDirectory_v2(head[:8])
      try:
        file.seek(tags.next)
        tags.load(file)
      except Exception:  # of a damaged file; as in `read_image`
        return
      _check_tiff(tags, path)


def _check_tiff(tags, path: str | os.PathLike):
  """Raises UserError for pixels of a TIFF that are no colours."""
  channels, bits, sample_format = (int(np.max(tags.get(tag, 1))) for tag in (_SAMPLES, _BITS, _SAMPLE_FORMAT))
  what = None
  if sample_format in (3, 6) or tags.get(_PHOTOMETRIC) in (32844, 32845):  # 6: complex ones; LogLuv, as OpenCV 4 writes
    what = 'floating-point numbers'
  elif sample_format in (2, 5):
    what = 'signed numbers'
  elif bits > 16:
    what = f'{bits}-bit numbers'
  if what:
    raise UserError(f'{path}: pixels are {what}; convert it to an 8- or 16-bit image')
  if channels > 4:
    raise UserError(f'{path}: has {channels} channels, 3 are needed; write red, green and blue to another file')


def _check_high_bytes(file: Image.Image, path: str | os.PathLike):
  """`_check_range` of an image with colours or alpha, of whose 16-bit numbers Pillow keeps the high byte."""
  colors = slice(1 if file.mode == 'LA' else 3)  # without alpha
  if np.atleast_2d(file.getextrema())[colors, 1].max() >= DARK >> 8:
    return
  values = cv2.imread(os.fspath(path), cv2.IMREAD_UNCHANGED)
  if values is not None and values.dtype == np.uint16:
    _check_range(values[..., :3], path)


def _check_range(values: np.ndarray, name: object):
  """Raises UserError where all numbers in 16 bits are below `DARK`, as files of 10- to 14-bit cameras hold them.

  Dark images that a program widened from 8 bits, by 257 or 256, are what they seem.
  """
  most = int(values.max())
  if 0 < most < DARK and (values % 257).any() and (values % 256).any():
    bits = next(bits for bits in (8, 10, 12, 14) if most < 2**bits)
    raise UserError(
      f'{name}: its 16-bit numbers reach from {values.min()} to {most} only, so that it would be nearly black; '
      f'multiply them by {2 ** (16 - bits)} if they are {bits}-bit numbers, or convert it to 8 bits'
    )
