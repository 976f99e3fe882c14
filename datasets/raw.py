"""Shared code of the builders of raw benchmark data: finding, checking and encoding raw files.

A builder names the files it needs and a function `encode(root, id) -> example` that converts the raw files of one
image to the stored example. This module finds the files, encodes the images in several processes, and reports
everything that is missing or broken in one error.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import math
import os
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from dmtl_jax.basics.errors import join_names, UserError
from dmtl_jax.basics.processes import mapper
from dmtl_jax.basics.progress import Progress

MIN_IMAGES_PER_PROCESS = 16  # fewer do not justify starting a process


class FileBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A builder that encodes images in several processes and stores image files as they are.

  Attributes:
    processes: number of processes that encode; 0: one per core.
  """

  processes = 0

  @property
  def files(self) -> list[str]:
    """Names of the features that are stored as image files."""
    return [name for name, feature in self.info.features.items() if isinstance(feature, tfds.features.Image)]

  def as_data_source(self, split=None, *, decoders=None, **options):
    """Like TFDS's method, but by default leaves image files as bytes, for the data set's `decode`."""
    decoders = decoders or {name: tfds.decode.SkipDecoding() for name in self.files}
    return super().as_data_source(split, decoders=decoders, **options)


class RawBuilder(FileBuilder, skip_registration=True):
  """A builder that `--mode=prepare` runs on a benchmark's raw files.

  Attributes:
    MARKER: file or folder that identifies the root of the raw data.
    IMAGES: {split: number of images of the benchmark}.
    USUAL: height and width of most of its images.
    OFFICIAL: {label setting: file of the benchmark's mapping for it, listed in checksums.tsv}.
    size: (H, W) of config.data.size; None: any. Builders may accept raw images of other sizes.
  """

  MANUAL_DOWNLOAD_INSTRUCTIONS = 'README.md says where to get the raw data.'
  MARKER: str
  IMAGES: dict[str, int]
  USUAL: tuple[int, int]
  OFFICIAL: ClassVar[dict[str, str]] = {}

  size = None


def find_roots(raw: Path, marker: str) -> list[Path]:
  """The folders that contain the file or folder `marker`: `raw` itself or up to two levels below."""
  markers = [path for levels in ('', '*/', '*/*/') for path in sorted(raw.glob(f'{levels}{marker}'))]
  return [path.parents[len(Path(marker).parts) - 1] for path in markers]


def find_root(raw: Path, marker: str) -> Path:
  """The first of `find_roots`; raises UserError if there is none."""
  roots = find_roots(raw, marker)
  if not roots:
    raise UserError(f"{raw}: contains no '{marker}'; give the data set's folder in --config.data.raw")
  return roots[0]


def require_files(root: Path, files: Sequence[str]):
  """Raises UserError with the first few of the `files` (paths relative to root) that are missing."""
  missing = [file for file in files if not (root / file).is_file()]
  if missing:
    raise UserError(f'{root}: {len(missing)} of {len(files)} files are missing: {join_names(missing, 5)}; add them')


def encode_split(encode: Callable, root: Path, splits: dict, split: str, processes: int) -> Iterator:
  """Encodes the images of a split, in order.

  Args:
    encode: picklable function (root, id) -> example; raises UserError for a broken file.
    splits: {split: ids} of all splits of the data set.
    processes: maximum number of processes; 0: one per core, 1: only this process.

  Yields:
    (position in the split, example).

  Raises:
    UserError: at the end, with the broken files, also those of later splits, so that one run finds all of them.
  """
  broken = []
  names = list(splits)
  attempt = functools.partial(_attempt, encode, root)
  for name in names[names.index(split) :]:
    count = min(processes or os.cpu_count() or 1, math.ceil(len(splits[name]) / MIN_IMAGES_PER_PROCESS))
    count = 0 if count == 1 else count
    with Progress(f'preparing {name}', len(splits[name]), 'img') as progress, mapper(count) as map_images:
      for position, result in enumerate(map_images(attempt, splits[name])):
        progress.update(note=f'{len(broken)} broken' if broken else '')
        if isinstance(result, UserError):
          broken.append(str(result))
        elif name == split:
          yield position, result
    if not broken:
      return
  raise UserError(f'{root}: {len(broken)} images have broken files: {join_names(broken, 5)}; repair them')


def _attempt(encode, root, id):
  """The example, or the UserError as a value, so that a broken file does not end the search for others."""
  try:
    return encode(root, id)
  except UserError as error:
    return error
