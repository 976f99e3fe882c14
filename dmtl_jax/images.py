"""Images as people have them: any file, folder, glob or video, any size.

Large images are predicted in overlapping tiles that blend without seams.
"""

from collections.abc import Callable, Iterator, Sequence
import glob
import os
import pathlib

from absl import logging
import cv2
import numpy as np
from PIL import Image, ImageOps

from dmtl_jax.data import files
from dmtl_jax.errors import UserError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.ppm', '.pgm', '.jp2')
FORMATS = (*files.IMAGE_FORMATS, 'GIF', 'PPM', 'JPEG2000')  # Pillow would run Ghostscript for others
VIDEO_SUFFIXES = ('.mp4', '.mov', '.avi', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


def find_images(spec: str | Sequence[str]) -> list[pathlib.Path]:
  """Image and video files that a spec names, each once, in the order given.

  Args:
    spec: files, folders (searched with their subfolders) and globs ('**' reaches into
      subfolders); one string with commas between them, or a sequence.

  Raises:
    UserError: a part that names nothing.
  """
  if isinstance(spec, str):
    spec = [spec] if os.path.exists(spec) else spec.split(',')  # a file's name may hold a comma
  found = [path for part in map(str.strip, map(str, spec)) if part for path in _find(part)]
  if not found:
    raise UserError('--images: empty; give a file, a folder or a quoted glob')
  return list(dict.fromkeys(found))


def _find(part: str) -> list[pathlib.Path]:
  path = pathlib.Path(part).expanduser()
  if path.is_file():
    return [path]
  inside = path.rglob('*') if path.is_dir() else map(pathlib.Path, glob.glob(str(path), recursive=True))
  suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
  paths = sorted(p for p in inside if p.suffix.lower() in suffixes and not p.name.startswith('.') and p.is_file())
  if not paths:
    raise UserError(f"--images: '{part}' names no image; give a file, a folder or a quoted glob")
  return paths


def is_video(path: os.PathLike | str) -> bool:
  """Whether the file's name is that of a video."""
  return pathlib.Path(path).suffix.lower() in VIDEO_SUFFIXES


def pictures(
    paths: Sequence[pathlib.Path], broken: list[tuple[pathlib.Path, str]]
) -> Iterator[tuple[pathlib.Path, str, np.ndarray]]:
  """Every image, and every frame of a video, of some files; what cannot be read is collected.

  Args:
    broken: (path, the reason in one sentence) of each unreadable file is appended here.

  Yields:
    (path, name, uint8 [H, W, 3] RGB); the name is the file's without suffix, and of a video
    with the frame's number: 'walk_000012'.
  """
  for path in paths:
    try:
      if is_video(path):
        for i, frame in enumerate(frames(path)):
          yield path, f'{path.stem}_{i:06d}', frame
      else:
        yield path, path.stem, read_image(path)
    except UserError as error:
      broken.append((path, str(error)))


def read_image(path: os.PathLike | str) -> np.ndarray:
  """An image file as a viewer shows it: uint8 [H, W, 3] RGB.

  EXIF rotation is applied, transparent pixels are laid on white, palettes are looked up, grey
  is repeated; 16 bits a channel become 8 by their high byte; of an animation, the first frame.

  Raises:
    UserError: the file is missing, not an image, cut short, or of floating-point pixels.
  """
  try:
    with Image.open(path, formats=FORMATS) as file:
      files.check_pixels(file, path)
      image = ImageOps.exif_transpose(file)
      image.load()
  except FileNotFoundError:
    raise UserError(f'{path}: no such file') from None
  except Exception as error:  # Pillow has no common error
    raise UserError(f'{path}: not a readable image ({_reason(error)}); replace it or convert it to PNG') from error
  if image.mode.startswith('I'):
    return _grey16(path, np.asarray(image))
  if image.mode == 'F':
    raise UserError(f'{path}: pixels are floating-point numbers; convert it to an 8- or 16-bit image')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
  return np.array(image.convert('RGB'))


def _reason(error: Exception) -> str:
  """Pillow's words without the path that they repeat."""
  return 'unknown format' if 'cannot identify' in str(error) else str(error).rstrip('.')


def _grey16(path, values: np.ndarray) -> np.ndarray:
  if values.min() < 0 or values.max() > 65535:
    raise UserError(f'{path}: pixels beyond 16 bits; convert it to an 8- or 16-bit image')
  return (values >> 8).astype(np.uint8)[..., None].repeat(3, -1)


def frames(path: os.PathLike | str) -> Iterator[np.ndarray]:
  """Frames of a video, uint8 [H, W, 3] RGB, turned upright, one in memory at a time.

  A video that ends before the length its header states is reported in the log.

  Raises:
    UserError: it cannot be opened or holds no frame.
  """
  if not os.path.isfile(path):
    raise UserError(f'{path}: no such file')
  video = cv2.VideoCapture(str(path))
  count, stated = 0, video.get(cv2.CAP_PROP_FRAME_COUNT)
  try:
    while True:
      good, frame = video.read()
      if not good:
        break
      count += 1
      yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
  finally:
    video.release()
  if not count:
    raise UserError(f'{path}: not a readable video; convert it to MP4 (H.264)')
  if count < stated - 1:
    logging.warning('%s: ends after %d of %d frames', path, count, stated)


# --- Tiles -----------------------------------------------------------------------------------

Maps = dict[str, np.ndarray]


def predict_tiled(
    predict: Callable[[np.ndarray], Maps],
    image: np.ndarray,
    size: tuple[int, int],
    overlap: float = 0.25,
    finish: Callable[[Maps], Maps] = lambda maps: maps,
) -> Maps:
  """Predicts an image of any size in overlapping tiles and blends their raw maps.

  The weight of a tile falls smoothly to nearly 0 at its rim, so that no seam shows. Rows of
  tiles are finished as soon as no later tile reaches them, so that raw maps of the whole
  image never are in memory.

  Args:
    predict: uint8 [h, w, 3] of exactly `size` to raw maps {task: float [h, w, C]}.
    image: uint8 [H, W, 3]; where it is smaller than `size` it is mirrored at its border.
    size: (h, w) of a tile.
    overlap: least share of a tile that its neighbour covers too, from 0 up to below 1.
    finish: turns blended raw maps [rows, W, C] into predictions, pixel by pixel
      (`tasks.activate` of each task); default: leaves them raw.

  Returns:
    {task: what `finish` gives, [H, W, ...]}.
  """
  height, width = image.shape[:2]
  below, right = max(size[0] - height, 0), max(size[1] - width, 0)
  image = np.pad(image, ((0, below), (0, right), (0, 0)), mode='symmetric')
  tops, lefts = (_starts(n, s, overlap) for n, s in zip(image.shape, size))
  window = (_bell(size[0])[:, None] * _bell(size[1]))[..., None]
  bands, sums = [], None
  for top, below in zip(tops, [*tops[1:], image.shape[0]]):
    sums = _add_row(predict, image[top : top + size[0]], lefts, window, sums)
    done = below - top
    weight = sums[1][:done]
    bands.append(finish({name: total[:done] / weight for name, total in sums[0].items()}))
    sums = _shifted(sums, done)
  return {name: np.concatenate([band[name] for band in bands])[:height, :width] for name in bands[0]}


def _starts(length: int, size: int, overlap: float) -> list[int]:
  """Where tiles begin: the first at 0, the last at the end, evenly between."""
  stride = max(int(size * (1 - overlap)), 1)
  count = 1 + -(-(length - size) // stride)
  return [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]


def _bell(size: int) -> np.ndarray:
  """Weights of a tile along one side: a squared sine, above 0 even at the rim."""
  return np.sin(np.pi * (np.arange(size, dtype=np.float32) + 0.5) / size) ** 2


def _add_row(predict, strip: np.ndarray, lefts: list[int], window: np.ndarray, sums):
  """Adds one row of tiles to ({task: weighted sum [h, W, C]}, weight [h, W, 1])."""
  height, width = window.shape[:2]
  for left in lefts:
    maps = predict(strip[:, left : left + width])
    if sums is None:
      zeros = lambda channels: np.zeros((height, strip.shape[1], channels), np.float32)
      sums = {name: zeros(values.shape[-1]) for name, values in maps.items()}, zeros(1)
    sums[1][:, left : left + width] += window
    for name, values in maps.items():
      sums[0][name][:, left : left + width] += window * np.asarray(values, np.float32)
  return sums


def _shifted(sums, rows: int):
  """The sums after `rows` finished rows left at the top and as many empty ones came at the bottom."""
  shift = lambda x: np.concatenate([x[rows:], np.zeros_like(x[:rows])])
  return {name: shift(total) for name, total in sums[0].items()}, shift(sums[1])
