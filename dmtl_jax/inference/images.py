"""Images as people have them: any file, folder, glob or video, any size."""

import collections
from collections.abc import Iterator, Sequence
import glob
import os
import pathlib
import sys

os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # we report unreadable videos ourselves
import cv2
import numpy as np
from PIL import Image

from dmtl_jax.basics import files, photographs
from dmtl_jax.basics.errors import check_local, UserError

VIDEO_SUFFIXES = ('.mp4', '.mov', '.avi', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
LONGEST_FRAME = 60.0  # seconds that one may be shown


# --- Files -----------------------------------------------------------------------------------


def find_images(spec: str | Sequence[str], out: str | os.PathLike | None = None) -> list[pathlib.Path]:
  """Image and video files that a spec names, each once, in the order given; also photographs of unsupported formats.

  Args:
    spec: files, folders (searched with their subfolders) and globs ('**' reaches into
      subfolders); one string with commas between them, or a sequence.
    out: the folder of results.

  Raises:
    UserError: a part that names nothing, only photographs of unsupported formats (see
      `photographs.unsupported_files`), a loop of links, or `out` in a folder of images or around an image: results
      could overwrite images, and would be taken for images the next time.
  """
  if isinstance(spec, str):
    spec = [spec] if os.path.exists(spec) else spec.split(',')  # a file's name may hold a comma
  parts = [part for part in map(str.strip, map(str, spec)) if part]
  paths = list(dict.fromkeys(path for part in parts for path in _find(part)))
  if not paths:
    raise UserError('--images: empty; give a file, a folder or a quoted glob')
  if all(map(photographs.unsupported_format, paths)):
    raise UserError(f'--images: {photographs.unsupported_files(paths)}')
  if out is not None:
    target = pathlib.Path(out).resolve()
    folders = [path for path in map(pathlib.Path, parts) if path.expanduser().resolve() in (target, *target.parents)]
    for path in [*folders, *(path for path in paths if target in path.resolve().parents)]:
      raise UserError(f'--out={out}: lies with {path} of --images, and could overwrite images; choose a folder apart')
  return paths


def _find(part: str) -> list[pathlib.Path]:
  path = pathlib.Path(part).expanduser()
  if path.is_file():
    return [path]
  inside = path.rglob('*') if path.is_dir() else map(pathlib.Path, glob.glob(str(path), recursive=True))
  suffixes = photographs.suffixes() + VIDEO_SUFFIXES
  paths = sorted(
    path
    for path in inside
    if (path.suffix.lower() in suffixes or photographs.unsupported_format(path))
    and not path.name.startswith('.')
    and path.is_file()
  )
  if not paths:
    raise UserError(f"--images: '{part}' names no image; give a file, a folder or a quoted glob")
  for link in {folder for path in paths for folder in path.parents if folder.is_symlink()}:
    if link.resolve() in (link.parent.resolve(), *link.parent.resolve().parents):
      raise UserError(f'{link}: a link to a folder that it lies in; remove it, or name the images without it')
  return paths


def result_names(paths: Sequence[pathlib.Path]) -> list[str]:
  """A name for the results of each file: its own without suffix, or a longer one where two would share it.

  'a/x.jpg' and 'b/x.jpg' become 'a_x' and 'b_x', 'x.jpg' and 'x.png' of one folder 'x_jpg' and
  'x_png'. Names that differ only in upper and lower case count as the same: some disks cannot hold both. They are in
  Unicode's NFC, see `files.nfc`.

  Raises:
    UserError: NAME.png would be too long for the name of a file.
  """
  absolute = [path.absolute() for path in paths]
  root = os.path.commonpath([path.parent for path in absolute])
  below = [files.nfc('_'.join((*path.parent.relative_to(root).parts, path.stem))) for path in absolute]
  suffixed = [f'{name}_{path.suffix[1:]}' for name, path in zip(below, paths)]
  numbered = [f'{name}_{i}' for i, name in enumerate(suffixed)]
  names = [files.nfc(path.stem) for path in paths]
  for longer_names in (below, suffixed, numbered):
    keys = [name.casefold() for name in names]
    count = collections.Counter(keys)
    names = [longer if count[key] > 1 else name for name, key, longer in zip(names, keys, longer_names)]
  for path, name in zip(paths, names):
    if not files.is_name(f'{name}.png'):
      raise UserError(f'{path}: the name of its results, {name}.png, is too long; rename it, or predict it alone')
  return names


def report_skipped(paths: Sequence[pathlib.Path], broken: list[str]) -> int:
  """Prints why files were skipped, `broken` and those of unsupported formats; returns 1 if there are any, else 0."""
  unsupported = photographs.unsupported_files(paths)
  reasons = [*broken, *([unsupported] if unsupported else [])]
  for reason in reasons:
    print(f'skipped: {reason}', file=sys.stderr)
  if extra := [path.name for path in paths if photographs.has_extra_bytes(path)]:
    print(photographs.describe_extra_bytes(extra), file=sys.stderr)
  return 1 if reasons else 0


def count_of(number: int, noun: str) -> str:
  """'1 image', '2 images'."""
  return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def is_video(path: os.PathLike | str) -> bool:
  """Whether the file's name is that of a video."""
  return pathlib.Path(path).suffix.lower() in VIDEO_SUFFIXES


def as_rgb(image, name: str = 'image') -> np.ndarray:
  """A path, a Pillow image or an array uint8 [H, W(, 1, 3 or 4)] as an array uint8 [H, W, 3] RGB.

  Arrays are shown as files are: grey repeated, transparent pixels on white.

  Raises:
    UserError: anything else; the sentence begins with the path, or with `name`.
  """
  if isinstance(image, (str, os.PathLike)):
    return _read_one(os.fspath(image))
  if isinstance(image, Image.Image):
    return photographs.to_rgb(image, name)
  try:
    image = np.asarray(image)
  except ValueError:  # lists of different lengths
    raise UserError(f'{name}: not an image; give a path, a Pillow image or an array uint8 [H, W, 3]') from None
  if image.dtype == object or not image.shape:
    raise UserError(f'{name}: not an image; give a path, a Pillow image or an array uint8 [H, W, 3]')
  if image.ndim == 3 and image.shape[0] in (1, 3, 4) and image.shape[-1] not in (1, 3, 4):
    raise UserError(f'{name}: shape {list(image.shape)}, with channels first; give image.transpose(1, 2, 0)')
  if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,), (4,)) or 0 in image.shape:
    raise UserError(f'{name}: shape {list(image.shape)}; give one RGB image [H, W, 3], or a list of them')
  if image.dtype != np.uint8:
    fix = '; (255 * image).round().astype(np.uint8) if they reach from 0 to 1' if image.dtype.kind == 'f' else ''
    raise UserError(f'{name}: {image.dtype} numbers; give uint8 from 0 to 255{fix}')
  if image.shape[2:] == (3,):
    return image
  return photographs.to_rgb(Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image))


def _read_one(path: str) -> np.ndarray:
  """Reads one image file, and says what to do with folders, globs, videos and addresses."""
  check_local('image', path)
  if os.path.isdir(path) or (not os.path.exists(path) and glob.has_magic(path)):
    pattern = path if glob.has_magic(path) else os.path.join(path, '*.jpg')
    raise UserError(f'{path}: is not one image; give a list, sorted(glob.glob({pattern!r})), or use dmtl_jax.predict')
  if is_video(path):
    raise UserError(f'{path}: is a video; give its frames as arrays, or use dmtl_jax.predict')
  return photographs.read_image(path)


def shrink(image: np.ndarray, side: int) -> np.ndarray:
  """Shrinks the image so that its longer side is at most `side`."""
  scale = side / max(image.shape[:2])
  if scale >= 1:
    return image
  return cv2.resize(image, [max(round(n * scale), 1) for n in image.shape[1::-1]], interpolation=cv2.INTER_AREA)


# --- Videos ----------------------------------------------------------------------------------


class Video:
  """A video file as an iterable of frames, uint8 [H, W, 3] RGB, turned upright; one is in memory at a time.

  Attributes:
    length: number of frames by the header; 0 if it has none.
    rate: frames per second; their mean if it varies.
    seconds: time of the frame read last, since the first; of those with a varying rate too.

  Raises:
    UserError: the file cannot be opened; or, at the end of the iteration, it ended too early.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    video = self._open()
    rate = video.get(cv2.CAP_PROP_FPS)
    length = video.get(cv2.CAP_PROP_FRAME_COUNT)
    video.release()
    self.rate = rate if 0 < rate <= 1000 else 25.0
    self.length = max(int(length), 0)
    self.seconds = 0.0

  def _open(self) -> cv2.VideoCapture:
    video = cv2.VideoCapture(str(self.path))
    if not video.isOpened():
      raise UserError(f'{self.path}: not a readable video; convert it to MP4 (H.264)')
    return video

  def __iter__(self) -> Iterator[np.ndarray]:
    video = self._open()
    count = 0
    first = 0.0
    last = -1 / self.rate
    try:
      while True:
        is_read, frame = video.read()
        if not is_read:
          break
        clock = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not count:
          first = clock
        clock -= first
        known = last < clock < last + LONGEST_FRAME  # else the file has no times, or damaged ones
        self.seconds = clock if known else last + 1 / self.rate
        last = self.seconds
        count += 1
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
      video.release()
    if not count:
      raise UserError(f'{self.path}: no frame can be read; convert it to MP4 (H.264)')
    # Also by the clock: with a varying frame rate the header's number of frames is a guess.
    if max(count, last * self.rate) < 0.95 * self.length - 1:
      raise UserError(f'{self.path}: ends after {count} of {self.length} frames; copy it again')
