"""Images as people have them: any file, folder, glob or video, any size.

Large images are seen by the network in overlapping tiles, whose maps blend without seams.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import glob
import os
import pathlib

os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # what cannot be read is told by us
import cv2
import numpy as np
from PIL import Image

from dmtl_jax.basics import atomic, files, photographs
from dmtl_jax.basics.errors import UserError

VIDEO_SUFFIXES = ('.mp4', '.mov', '.avi', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
Maps = dict[tuple[str, str], np.ndarray]


# --- Files -----------------------------------------------------------------------------------


def find_images(spec: str | Sequence[str], out: str | os.PathLike | None = None) -> list[pathlib.Path]:
  """Image and video files that a spec names, each once, in the order given; photographs that are not read too.

  Args:
    spec: files, folders (searched with their subfolders) and globs ('**' reaches into
      subfolders); one string with commas between them, or a sequence.
    out: the folder of results.

  Raises:
    UserError: a part that names nothing, only photographs that are not read (see `photographs.unread_files`), a loop
      of links, or `out` in a folder of images or around an image: results could overwrite images, and would be taken
      for images the next time.
  """
  if isinstance(spec, str):
    spec = [spec] if os.path.exists(spec) else spec.split(',')  # a file's name may hold a comma
  parts = [part for part in map(str.strip, map(str, spec)) if part]
  found = list(dict.fromkeys(path for part in parts for path in _find(part)))
  if not found:
    raise UserError('--images: empty; give a file, a folder or a quoted glob')
  if all(map(photographs.unread_format, found)):
    raise UserError(f'--images: {photographs.unread_files(found)}')
  if out is not None:
    place = pathlib.Path(out).resolve()
    folders = [path for path in map(pathlib.Path, parts) if path.expanduser().resolve() in (place, *place.parents)]
    for path in [*folders, *(path for path in found if place in path.resolve().parents)]:
      raise UserError(f'--out={out}: lies with {path} of --images, and could overwrite images; choose a folder apart')
  return found


def _find(part: str) -> list[pathlib.Path]:
  path = pathlib.Path(part).expanduser()
  if path.is_file():
    return [path]
  inside = path.rglob('*') if path.is_dir() else map(pathlib.Path, glob.glob(str(path), recursive=True))
  suffixes = photographs.suffixes() + VIDEO_SUFFIXES
  wanted = lambda path: path.suffix.lower() in suffixes or photographs.unread_format(path)
  paths = sorted(path for path in inside if wanted(path) and not path.name.startswith('.') and path.is_file())
  if not paths:
    raise UserError(f"--images: '{part}' names no image; give a file, a folder or a quoted glob")
  for link in {folder for path in paths for folder in path.parents if folder.is_symlink()}:
    if link.resolve() in (link.parent.resolve(), *link.parent.resolve().parents):
      raise UserError(f'{link}: a link to a folder that it lies in; remove it, or name the images without it')
  return paths


def result_names(paths: Sequence[pathlib.Path]) -> list[str]:
  """A name for the results of each file: its own without suffix, longer where two would share it.

  'a/x.jpg' and 'b/x.jpg' become 'a_x' and 'b_x', 'x.jpg' and 'x.png' of one folder 'x_jpg' and
  'x_png'. Names that differ in upper and lower case only count as one: some disks cannot hold both. They are in
  Unicode's NFC, see `files.nfc`.

  Raises:
    UserError: NAME.png would be longer than a file's name can be.
  """
  absolute = [path.absolute() for path in paths]
  root = os.path.commonpath([path.parent for path in absolute])
  below = [files.nfc('_'.join((*path.parent.relative_to(root).parts, path.stem))) for path in absolute]
  suffixed = [f'{name}_{path.suffix[1:]}' for name, path in zip(below, paths)]
  numbered = [f'{name}_{i}' for i, name in enumerate(suffixed)]
  names = [files.nfc(path.stem) for path in paths]
  for longer in (below, suffixed, numbered):
    taken = [name.casefold() for name in names]
    names = [more if taken.count(key) > 1 else name for name, key, more in zip(names, taken, longer)]
  for path, name in zip(paths, names):
    if not files.is_name(f'{name}.png'):
      raise UserError(f'{path}: the name of its results, {name}.png, is too long; rename it, or predict it alone')
  return names


def is_video(path: os.PathLike | str) -> bool:
  """Whether the file's name is that of a video."""
  return pathlib.Path(path).suffix.lower() in VIDEO_SUFFIXES


def as_rgb(image) -> np.ndarray:
  """Such an array, a Pillow image or a path as uint8 [H, W, 3] RGB; raises UserError for anything else."""
  if isinstance(image, (str, os.PathLike)):
    return photographs.read_image(image)
  if isinstance(image, Image.Image):
    return photographs.to_rgb(image)
  image = np.asarray(image)
  if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
    raise UserError(f'image: shape {list(image.shape)}; give one RGB image [H, W, 3], or a list of them')
  if image.dtype != np.uint8:
    raise UserError(f'image: {image.dtype} numbers; give uint8 from 0 to 255')
  return image


def shrink(image: np.ndarray, side: int) -> np.ndarray:
  """The image, smaller where a side is longer than `side`."""
  scale = side / max(image.shape[:2])
  if scale >= 1:
    return image
  return cv2.resize(image, [max(round(n * scale), 1) for n in image.shape[1::-1]], interpolation=cv2.INTER_AREA)


# --- Videos ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Still:
  """An image file as a source of one frame, as `Video` is of many; raises UserError when it is read."""

  path: pathlib.Path
  length = 1
  rate = None

  def __iter__(self) -> Iterator[np.ndarray]:
    yield photographs.read_image(self.path)


class Video:
  """A video file as frames, uint8 [H, W, 3] RGB, turned upright, one in memory at a time.

  Attributes:
    length: number of frames that the header states; 0 where it does not.
    rate: frames a second.

  Raises:
    UserError: it cannot be opened; by the iteration, after the last frame, where that comes early.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    video = self._open()
    rate, length = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
    video.release()
    self.rate = rate if 0 < rate <= 1000 else 25.0
    self.length = max(int(length), 0)

  def _open(self) -> cv2.VideoCapture:
    video = cv2.VideoCapture(str(self.path))
    if not video.isOpened():
      raise UserError(f'{self.path}: not a readable video; convert it to MP4 (H.264)')
    return video

  def __iter__(self) -> Iterator[np.ndarray]:
    video, count, seconds = self._open(), 0, 0.0
    try:
      while True:
        good, frame = video.read()
        if not good:
          break
        count, seconds = count + 1, video.get(cv2.CAP_PROP_POS_MSEC) / 1000
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
      video.release()
    # By the clock too: the number of frames is a guess where their rate varies.
    if not count:
      raise UserError(f'{self.path}: no frame can be read; convert it to MP4 (H.264)')
    if max(count, seconds * self.rate) < 0.95 * self.length - 1:
      raise UserError(f'{self.path}: ends after {count} of {self.length} frames; copy it again')


class VideoWriter:
  """Writes frames, uint8 [H, W, 3] RGB of one size, to an MP4 file, in a `with` block at whose end it appears.

  Raises UserError where this build of OpenCV cannot write videos there.
  """

  def __init__(self, path: pathlib.Path, rate: float):
    self._path, self._rate = path, rate
    self._video: cv2.VideoWriter | None = None
    self._place = contextlib.ExitStack()

  def write(self, frame: np.ndarray):
    odd = [(0, side % 2) for side in frame.shape[:2]]
    frame = np.pad(frame, [*odd, (0, 0)], mode='edge')  # codecs want even sides
    if self._video is None:
      temporary = self._place.enter_context(atomic.atomic_path(self._path, '.tmp.mp4'))
      code = cv2.VideoWriter.fourcc(*'mp4v')
      self._video = cv2.VideoWriter(temporary, code, self._rate, frame.shape[1::-1])
      if not self._video.isOpened():
        raise UserError(f'{self._path}: cannot be written as a video; predict its frames as images instead')
    self._video.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if self._video is not None:
      self._video.release()
    return self._place.__exit__(*error)


# --- Tiles -----------------------------------------------------------------------------------


def blend_tiles(
  predict: Callable[[int, int], Maps], size: tuple[int, int], tile: tuple[int, int], overlap: float = 0.5
) -> Maps:
  """Maps of any size from overlapping tiles. The weight of a tile falls smoothly to its rim, so no seam shows.

  Args:
    predict: (top, left) to the maps {key: float [h, w, C]} of the tile that begins there.
    size: (H, W) of the result, at least the tile's.
    tile: (h, w) of a tile.
    overlap: least share of a tile that its neighbour covers too, from 0 up to below 1.

  Returns:
    {key: float32 [H, W, C]}: at each pixel the mean of the tiles that cover it, by their
    weights; a single tile as it is.
  """
  if tuple(size) == tuple(tile):
    return predict(0, 0)
  window = (_bell(tile[0])[:, None] * _bell(tile[1]))[..., None]
  weight, sums = np.zeros((*size, 1), np.float32), {}
  for top in _starts(size[0], tile[0], overlap):
    for left in _starts(size[1], tile[1], overlap):
      place = slice(top, top + tile[0]), slice(left, left + tile[1])
      weight[place] += window
      for key, values in predict(top, left).items():
        sums.setdefault(key, np.zeros((*size, values.shape[-1]), np.float32))[place] += window * values
  return {key: total / weight for key, total in sums.items()}


def _starts(length: int, size: int, overlap: float) -> list[int]:
  """Where tiles begin: the first at 0, the last at the end, evenly between."""
  stride = max(int(size * (1 - overlap)), 1)
  count = 1 + -(-(length - size) // stride)
  return [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]


def _bell(size: int) -> np.ndarray:
  """Weights of a tile along one side: a squared sine, above 0 even at the rim."""
  return np.sin(np.pi * (np.arange(size, dtype=np.float32) + 0.5) / size) ** 2


def enlarge(
  maps: np.ndarray,
  extent: tuple[float, float],
  size: tuple[int, int],
  rows: slice,
  origin: tuple[float, float] = (0, 0),
) -> np.ndarray:
  """Some rows of a map at an image's size, bilinear between the centres of cells.

  Args:
    maps: float [h, w, C].
    extent: rows and columns of cells that the image covers; may be fractions.
    size: (H, W) of the image.
    rows: of the image.
    origin: rows and columns of cells above and left of the image.

  Returns:
    [rows, W, C].
  """
  at = [o + (np.arange(n) + 0.5) * e / n - 0.5 for o, n, e in zip(origin, size, extent)]
  y, x = (np.clip(a, 0, n - 1) for a, n in zip(at, maps.shape))
  y = y[rows]
  return _between(_between(maps, y, 0), x, 1)


def _between(maps: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
  """Linear interpolation of [h, w, C] along an axis, at fractional indices."""
  low = at.astype(int)
  share = (at - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
  before, after = maps.take(low, axis), maps.take(np.minimum(low + 1, maps.shape[axis] - 1), axis)
  return before + share * (after - before)
