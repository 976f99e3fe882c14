"""What the builders of raw benchmark data share: finding, checking and encoding raw files.

A builder names the files it needs and a function `encode(root, id) -> example` that turns
the raw files of one image into what is stored. Here the files are looked for, the images
are encoded by several processes, and whatever is missing or broken is told all at once.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import os
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from dmtl_jax.basics.errors import join_names, UserError
from dmtl_jax.basics.processes import mapper
from dmtl_jax.basics.progress import Progress

IMAGES_A_PROCESS = 16  # fewer are not worth a process's start


class FileBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A builder whose images are encoded by several processes, and whose image files stay files.

  Attributes:
    processes: that encode; 0: one a core.
  """

  processes = 0

  @property
  def files(self) -> list[str]:
    """Names of the features that are stored as image files."""
    return [name for name, feature in self.info.features.items() if isinstance(feature, tfds.features.Image)]

  def as_data_source(self, split=None, *, decoders=None, **options):
    """As TFDS's, but image files stay bytes, for the data set's `decode`, unless `decoders` is given."""
    decoders = decoders or {name: tfds.decode.SkipDecoding() for name in self.files}
    return super().as_data_source(split, decoders=decoders, **options)


class RawBuilder(FileBuilder, skip_registration=True):
  """A builder that `--mode=prepare` runs on a benchmark's raw files.

  Attributes:
    MARKER: a file or folder that only the root of the raw data has.
    IMAGES: {split: number of images of the benchmark}.
    USUAL: height and width of most of its images.
    OFFICIAL: {label setting: file of the benchmark's mapping for it, of those in checksums.tsv}.
    size: (H, W) of config.data.size; None: any. Not all raw images must have it.
  """

  MANUAL_DOWNLOAD_INSTRUCTIONS = 'README.md tells where to get the raw data.'
  MARKER: str
  IMAGES: dict[str, int]
  USUAL: tuple[int, int]
  OFFICIAL: ClassVar[dict[str, str]] = {}

  size = None


def roots(raw: Path, marker: str) -> list[Path]:
  """The folders at or up to two levels below `raw` that hold the file or folder `marker`."""
  found = [path for levels in ('', '*/', '*/*/') for path in sorted(raw.glob(f'{levels}{marker}'))]
  return [path.parents[len(Path(marker).parts) - 1] for path in found]


def find_root(raw: Path, marker: str) -> Path:
  """The first of `roots`; raises UserError where there is none."""
  found = roots(raw, marker)
  if not found:
    raise UserError(f"{raw}: found no '{marker}' in it; give the data set's folder in --config.data.raw")
  return found[0]


def require(root: Path, files: Sequence[str]):
  """Raises UserError where some of `files` (paths relative to root) are missing: how many, and the first."""
  missing = [file for file in files if not (root / file).is_file()]
  if missing:
    raise UserError(f'{root}: {len(missing)} of {len(files)} files are missing: {join_names(missing, 5)}; add them')


def examples(encode: Callable, root: Path, splits: dict, split: str, processes: int) -> Iterator:
  """Encodes the images of a split, in order.

  Args:
    encode: picklable function (root, id) -> example; raises UserError for a broken file.
    splits: {split: ids}, all of the data set's.
    processes: how many encode at most; 0: one a core, 1: this process.

  Yields:
    (position in the split, example).

  Raises:
    UserError: at the end, naming the broken files, those of later splits too, so that one run finds all of them.
  """
  broken, names = [], list(splits)
  attempt = functools.partial(_attempt, encode, root)
  for name in names[names.index(split) :]:
    useful = min(processes or os.cpu_count() or 1, -(-len(splits[name]) // IMAGES_A_PROCESS))
    with Progress(f'preparing {name}', len(splits[name]), 'img') as progress, mapper(useful * (useful > 1)) as encoded:
      for position, result in enumerate(encoded(attempt, splits[name])):
        progress.update(note=f'{len(broken)} broken' if broken else '')
        if isinstance(result, UserError):
          broken.append(str(result))
        elif name == split:
          yield position, result
    if not broken:
      return
  raise UserError(f'{root}: {len(broken)} images have broken files: {join_names(broken, 5)}; mend them')


def _attempt(encode, root, id):
  """The example, or the UserError as a value: one broken file must not end the search for others."""
  try:
    return encode(root, id)
  except UserError as error:
    return error
