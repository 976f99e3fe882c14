"""The one reader of photographs for training, evaluation, checks and prediction.

Images are read as a viewer shows them: rotated by EXIF, transparent pixels on white, palettes looked up, grey
repeated, CMYK converted, the first frame of an animation. Images that would come out differently raise an error.
Workers of the input pipeline use this, so it does not import JAX.
"""

import collections
from collections.abc import Iterable, Sequence
import contextlib
import functools
import importlib
import os
import pathlib
from typing import NamedTuple
import warnings

import cv2
import numpy as np
from PIL import features, Image, TiffImagePlugin, UnidentifiedImageError
import simplejpeg

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import join_names, UserError

FORMATS = (*files.IMAGE_FORMATS, 'GIF', 'PPM', 'JPEG2000')  # Pillow would run Ghostscript for others
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.ppm', '.pgm', '.jp2')
# Formats that need an extra package: Pillow's name, and how to install it.
EXTRA_FORMATS = {'HEIF': 'pip install pillow-heif', 'AVIF': 'pip install --upgrade pillow'}
EXTRA_SUFFIXES = {'.heic': 'HEIF', '.heif': 'HEIF', '.hif': 'HEIF', '.avif': 'AVIF'}
# Photographs that are never supported. They are counted and named; other files among images are ignored.
RAW_SUFFIXES = '.3fr .arw .cr2 .cr3 .crw .dng .erf .iiq .kdc .mrw .nef .nrw .orf .pef .raf .raw .rw2 .sr2 .srf .x3f'
OTHER_SUFFIXES: dict[str, str] = {'.psd': 'PSD', '.jxl': 'JPEG XL', '.exr': 'OpenEXR'}
OTHER_SUFFIXES |= dict.fromkeys(RAW_SUFFIXES.split(), 'camera RAW')

# Networks take values of 0..1, normalised by ImageNet's mean and standard deviation.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
DARK = 2**14  # of 16 bits: cameras have at most 14, which would be at most a quarter of white
_SAMPLES, _BITS, _SAMPLE_FORMAT, _PHOTOMETRIC, _ORIENTATION = 277, 258, 339, 262, 274  # tags of TIFF and EXIF
# Messages of libjpeg; the marker 0xd9 ends an image.
_EXTRA_BYTES = 'extraneous bytes before marker 0xd9'
_DAMAGE = ('Corrupt JPEG data', 'Premature end', 'Inconsistent progression')
_paths_with_extra_bytes: set[str] = set()
_BRANDS = {b'avif': 'AVIF', b'avis': 'AVIF'} | dict.fromkeys(
  (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1'), 'HEIF'
)

# The warnings of these libraries do not name the file; our errors do.
(getattr(cv2, 'setLogLevel', None) or cv2.utils.logging.setLogLevel)(0)  # of OpenCV 4, of 5
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')  # of damaged EXIF data
warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)  # `files.opened_image` checks sizes


# --- Which files -----------------------------------------------------------------------------


@functools.cache
def extra_formats() -> tuple[str, ...]:
  """Those of `EXTRA_FORMATS` that can be read here."""
  formats = []
  with contextlib.suppress(ImportError):
    importlib.import_module('pillow_heif').register_heif_opener()
    formats.append('HEIF')
  if 'avif' in features.get_supported():
    formats.append('AVIF')
  return tuple(formats)


def formats() -> tuple[str, ...]:
  """Pillow's names of the formats that can be read here."""
  return (*FORMATS, *extra_formats())


def suffixes() -> tuple[str, ...]:
  """Suffixes of images that can be read here, in lower case."""
  return (*SUFFIXES, *(suffix for suffix, name in EXTRA_SUFFIXES.items() if name in extra_formats()))


def unsupported_format(path: str | os.PathLike) -> str | None:
  """The format, by suffix, of a photograph that cannot be read here; None for all other files."""
  suffix = pathlib.Path(path).suffix.lower()
  name = EXTRA_SUFFIXES.get(suffix)
  return OTHER_SUFFIXES.get(suffix) if name is None or name in extra_formats() else _display_name(name)


def unsupported_files(paths: Iterable[pathlib.Path]) -> str:
  """'4 of 6 files are HEIC (a.heic, b.heic and 2 more), which is not read; FIX'; '' if all files are supported."""
  paths = list(paths)
  unsupported = {path: name for path in paths if (name := unsupported_format(path))}
  if not unsupported:
    return ''
  counts = collections.Counter(unsupported.values())
  formats = ' and '.join(counts) if len(counts) < 3 else join_names(list(counts))
  fix = ''.join(f'run {fix}, or ' for name, fix in EXTRA_FORMATS.items() if _display_name(name) in counts)
  names = join_names([path.name for path in unsupported])
  count = f'{len(unsupported)} of {len(paths)} files'
  are, them = ('is', 'it') if len(unsupported) == 1 else ('are', 'them')
  return f'{count} {are} {formats} ({names}), which is not read; {fix}convert {them} to JPEG or PNG'


def _display_name(name: str) -> str:
  """The common name of a format."""
  return 'HEIC' if name == 'HEIF' else name


# --- Reading ---------------------------------------------------------------------------------


def read_image(path: str | os.PathLike, least: tuple[int, int] | None = None) -> np.ndarray:
  """Reads an image file as a viewer shows it: uint8 [H, W, 3] RGB, of 16-bit channels the high byte.

  Args:
    least: height and width to which the image may shrink, to save time; None: it keeps its size. A JPEG is then decoded
      at 1/2, 1/4 or 1/8 of its sides, if that divides them and leaves at least these. Other images keep their size.

  Raises:
    UserError: the file is missing, empty, no image, damaged or cut short; its pixels are floating-point or 32-bit
      numbers or have more than 4 channels; or its 16-bit numbers use so few bits that it would be nearly black.
  """
  try:
    return _decode(path, least)
  except FileNotFoundError:
    raise UserError(f'{path}: no such file') from None
  except UserError:
    raise
  except Exception as error:  # Pillow has no common error: OSError, SyntaxError, struct.error, KeyError, ...
    raise UserError(f'{path}: not a readable image ({files.reason(error)}); replace it or convert it to PNG') from error


def _decode(path: str | os.PathLike, least: tuple[int, int] | None) -> np.ndarray:
  if not os.path.getsize(path):
    raise ValueError('the file is empty')
  try:
    with files.opened_image(path, formats()) as file:
      if isinstance(file, TiffImagePlugin.TiffImageFile):
        _check_tiff(file.tag_v2, path)  # Pillow drops channels after the fourth
      if file.format in ('JPEG', 'MPO'):
        size = _reduced_size(file, least)
        pixels = _decode_jpeg(path, 'CMYK' if file.mode == 'CMYK' else 'RGB', size)
        if pixels is not None and file.mode != 'CMYK':  # files encode no ink as 0 or 255; Pillow tells them apart
          return _upright(pixels, file)
      file.load()
      if file.mode in ('RGB', 'RGBX', 'RGBA', 'LA') and file.format in ('PNG', 'TIFF', 'JPEG2000'):
        _check_high_bytes(file, path)
      return to_rgb(file, path)
  except UnidentifiedImageError:
    _explain_unknown(path)
    raise


def to_rgb(image: Image.Image, name: object = 'image') -> np.ndarray:
  """Converts a Pillow image as `read_image` does; `name` begins the error."""
  image.load()
  if image.mode.startswith('I'):
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
      raise UserError(f'{name}: pixels beyond 16 bits; convert it to an 8- or 16-bit image')
    _check_range(values, name)
    if getattr(image, 'tag_v2', {}).get(_PHOTOMETRIC) == 0:  # 0 is white; Pillow inverts only 8 bits
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
  """Rotates the pixels as the image's EXIF data say; Pillow has already rotated TIFFs, and removed the tag."""
  return turn(pixels, _orientation(image))


def _orientation(image: Image.Image) -> int:
  """The EXIF orientation, 1 (upright) to 8."""
  try:
    orientation = int(image.getexif().get(_ORIENTATION, 1))
  except Exception:  # as in `read_image`; viewers show images with damaged EXIF data
    return 1
  return orientation if 1 <= orientation <= 8 else 1


class StoredSize(NamedTuple):
  """Width and height of a photograph as its file stores it, and the EXIF orientation to which viewers turn it."""

  width: int
  height: int
  orientation: int


def read_size(path: str | os.PathLike) -> StoredSize:
  """Reads only the header of a photograph; raises UserError if it is none."""
  try:
    with files.opened_image(path, formats()) as file:
      orientation = _orientation(file)
      if isinstance(file, TiffImagePlugin.TiffImageFile):  # Pillow gives the size after turning
        return StoredSize(int(file.tag_v2[256]), int(file.tag_v2[257]), orientation)
      return StoredSize(*file.size, orientation)
  except Exception as error:  # Pillow has no common error
    raise UserError(f'{path}: cannot be read as an image ({files.reason(error)}); replace or remove it') from error


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Turns stored pixels [H, W(, C)] as EXIF says, to how viewers show them."""
  if orientation in (5, 6, 7, 8):
    pixels = cv2.transpose(pixels)
  flips = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # OpenCV's codes
  return cv2.flip(pixels, flips[orientation]) if orientation in flips else pixels


def _reduced_size(file: Image.Image, least: tuple[int, int] | None) -> tuple[int, int]:
  """Height and width, as stored, at which to decode a JPEG; see `read_image`."""
  width, height = file.size
  if least:
    least = least[::-1] if _orientation(file) >= 5 else least
    for divisor in (8, 4, 2):
      is_whole = height % divisor == width % divisor == 0  # else pixels at the rim would show less than the others
      if is_whole and height >= divisor * least[0] and width >= divisor * least[1]:
        return height // divisor, width // divisor
  return height, width


def _decode_jpeg(path: str | os.PathLike, colors: str, size: tuple[int, int]) -> np.ndarray | None:
  """Decodes with libjpeg-turbo, which reports damage: Pillow ignores it and OpenCV only prints a line.

  Returns None if it fails for another reason, such as an encoding that it does not support.
  """
  data = pathlib.Path(path).read_bytes()
  decode = functools.partial(simplejpeg.decode_jpeg, data, colors, min_height=size[0], min_width=size[1])
  try:
    return decode()
  except ValueError as error:
    if _EXTRA_BYTES in str(error):
      _paths_with_extra_bytes.add(os.fspath(path))
      return decode(strict=False)
    if str(error).startswith(_DAMAGE):
      raise UserError(f'{path}: a damaged JPEG ({files.reason(error)}); copy it again or replace it') from error
    return None


def has_extra_bytes(path: str | os.PathLike) -> bool:
  """Whether a JPEG that this process has read has bytes between the last pixel and the end of the image."""
  return os.fspath(path) in _paths_with_extra_bytes


def describe_extra_bytes(names: Sequence[str]) -> str:
  """A remark on JPEGs for which `has_extra_bytes`.

  Some cameras write such bytes, which are harmless; but damage in the middle can show itself only by them.
  """
  advice = 'which some cameras write and damage leaves too; look whether the images are whole'
  return f'{join_names(names)}: bytes are left over behind the last pixel, {advice}'


def _explain_unknown(path: str | os.PathLike):
  """Raises UserError if a file unknown to Pillow has a format that we know."""
  with open(path, 'rb') as file:
    head = file.read(16)
    name = _BRANDS.get(head[8:12]) if head[4:8] == b'ftyp' else None
    if name and name not in extra_formats():
      raise UserError(
        f'{path}: is {_display_name(name)}, which is not read; run {EXTRA_FORMATS[name]}, or convert it to JPEG'
      )
    if head[:4] in (b'II*\0', b'MM\0*'):
      tags = TiffImagePlugin.ImageFileDirectory_v2(head[:8])
      try:
        file.seek(tags.next)
        tags.load(file)
      except Exception:  # a damaged file; as in `read_image`
        return
      _check_tiff(tags, path)


def _check_tiff(tags, path: str | os.PathLike):
  """Raises UserError for a TIFF whose pixels are not colours."""
  channels, bits, sample_format = (int(np.max(tags.get(tag, 1))) for tag in (_SAMPLES, _BITS, _SAMPLE_FORMAT))
  kind = None
  if sample_format in (3, 6) or tags.get(_PHOTOMETRIC) in (32844, 32845):  # 6: complex; LogLuv, as OpenCV 4 writes
    kind = 'floating-point numbers'
  elif sample_format in (2, 5):
    kind = 'signed numbers'
  elif bits > 16:
    kind = f'{bits}-bit numbers'
  if kind:
    raise UserError(f'{path}: pixels are {kind}; convert it to an 8- or 16-bit image')
  if channels > 4:
    raise UserError(f'{path}: has {channels} channels, 3 are needed; write red, green and blue to another file')


def _check_high_bytes(file: Image.Image, path: str | os.PathLike):
  """`_check_range` for images with colours or alpha, where Pillow keeps only the high byte of 16 bits."""
  colors = slice(1 if file.mode == 'LA' else 3)  # without alpha
  if np.atleast_2d(file.getextrema())[colors, 1].max() >= DARK >> 8:
    return
  values = cv2.imread(os.fspath(path), cv2.IMREAD_UNCHANGED)
  if values is not None and values.dtype == np.uint16:
    _check_range(values[..., :3], path)


def _check_range(values: np.ndarray, name: object):
  """Raises UserError if all 16-bit numbers are below `DARK`, as in files of 10- to 14-bit cameras.

  Images that a program widened from 8 bits, by 257 or 256, may be dark.
  """
  highest = int(values.max())
  if 0 < highest < DARK and (values % 257).any() and (values % 256).any():
    bits = next(bits for bits in (8, 10, 12, 14) if highest < 2**bits)
    raise UserError(
      f'{name}: its 16-bit numbers reach from {values.min()} to {highest} only, so that it would be nearly black; '
      f'multiply them by {2 ** (16 - bits)} if they are {bits}-bit numbers, or convert it to 8 bits'
    )
