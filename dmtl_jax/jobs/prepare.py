"""The job `--mode=prepare`: from raw benchmark data to the data set that training reads."""

from collections.abc import Iterator
import contextlib
import fcntl
import io
from pathlib import Path
import shutil
import sys

from absl import logging
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from dmtl_jax.basics import download
from dmtl_jax.basics.errors import UserError
from dmtl_jax.datasets import cityscapes_mt, nyud_mt, pascal_mt

BENCHMARKS = {'pascal': pascal_mt, 'nyud': nyud_mt, 'cityscapes': cityscapes_mt}
SETTINGS = {'one': 'onelabel.pth', 'random': 'randomlabels.pth'}
MAPPINGS = 'label_mappings'  # folder in the prepared data


def prepare(config) -> Path:
  """Builds the TFDS data set `config.data.name` from raw data, and fetches its label mapping.

  Nothing is done twice: a data set that is built is kept, one that was interrupted starts again.

  Args:
    config: `data` holds name ('pascal', 'nyud' or 'cityscapes'), dir (TFDS data_dir), raw (folder,
      archive or http(s) address of the raw data), raw_sha256 (of the archive; 'unknown' to trust
      an address), size ((H, W) that the images of nyud and cityscapes must have), workers
      (processes that encode; 0: one a core) and labels (for 'one' and 'random' the official mapping
      is fetched).

  Returns:
    The folder of the prepared data.

  Raises:
    UserError: what is missing or broken, and what to do.
  """
  data = config.data
  if data.name not in BENCHMARKS:
    known = ', '.join(BENCHMARKS)
    raise UserError(f"config.data.name: '{data.name}' needs no preparation; prepare is for {known}")
  builder = BENCHMARKS[data.name].Builder(data_dir=data.dir, file_format='array_record')
  with _alone(Path(builder.data_path).parent):
    if not builder.data_path.exists():
      _build(builder, data)
    counts = [f'{info.num_examples} images in {split}' for split, info in builder.info.splits.items()]
    print(f'{builder.data_path}: {", ".join(counts)} (delete the folder to build it anew)')
    if data.labels in SETTINGS:
      fetch_mapping(builder, data.labels)
  return Path(builder.data_path)


def _build(builder, data):
  for leftover in builder.data_path.parent.glob('incomplete.*'):  # of a run that was killed
    logging.info('%s: removing what an interrupted run left', leftover)
    shutil.rmtree(leftover)
  raw = raw_folder(data)
  builder.processes = data.get('workers', 0)
  if data.name != 'pascal':  # its images have their own sizes
    builder.size = tuple(data.size)
  tfds.disable_progress_bar()  # ours tell more
  shuffle.MAX_MEM_BUFFER_SIZE = sys.maxsize  # TFDS would spill a split above 1 GB with TensorFlow
  download_config = tfds.download.DownloadConfig(manual_dir=str(raw))
  with contextlib.redirect_stdout(io.StringIO()):  # TFDS would speak of downloads of unknown size
    builder.download_and_prepare(download_config=download_config)
  for split, expected in builder.IMAGES.items():
    found = builder.info.splits[split].num_examples
    if found != expected:
      logging.warning('%s: %d images in %s, the benchmark has %d', builder.name, found, split, expected)


def raw_folder(data) -> Path:
  """The folder of the raw data: `data.raw` itself, or what it unpacks or downloads to below `data.dir`.

  Raises:
    UserError: no raw data given, none there, or a download without a checksum.
  """
  folder, sha256 = Path(data.dir).expanduser(), data.get('raw_sha256', '')
  readme = f'datasets/{data.name}_mt/README.md tells where to get the data'
  if not data.get('raw', ''):
    raise UserError(f'config.data.raw: give the folder, archive or address of the raw data; {readme}')
  if data.raw.startswith(('http://', 'https://')):
    if not sha256:
      raise UserError(f"config.data.raw_sha256: give the sha256 of {data.raw}, or 'unknown' to trust it")
    name = data.raw.split('?')[0].rstrip('/').rpartition('/')[2]
    path = download.download(data.raw, folder / 'downloads' / name, sha256)
  else:
    path = Path(data.raw).expanduser()
    if not path.exists():
      raise UserError(f'config.data.raw: {path} does not exist; {readme}')
    if path.is_dir():
      return path
    if sha256:
      download.check(path, sha256)
  # The size in the name: another archive of the same name gets another folder.
  unpacked = folder / 'extracted' / f'{path.name}-{path.stat().st_size}'
  logging.info('%s: unpacking into %s (may be deleted when the data set is built)', path, unpacked)
  return download.extract(path, unpacked)


def fetch_mapping(builder, labels: str) -> Path:
  """The official image-to-task mapping of the setting, beside the prepared data; downloaded if not there.

  Args:
    builder: of the prepared data set; its checksums.tsv names the file.
    labels: 'one' or 'random'.

  Raises:
    UserError: there is no such mapping, or it cannot be fetched.
  """
  for url, info in builder.url_infos.items():
    if info.filename == SETTINGS[labels]:
      path = Path(builder.data_path) / MAPPINGS / info.filename
      try:
        return download.download(url, path, info.checksum)
      except UserError as error:
        raise UserError(f'the data set is ready, but not its mapping of labels: {error}') from error
  raise UserError(f"config.data.labels: {builder.name} has no official '{labels}' mapping; give a path")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
  """One process a data set: another's unfinished files must not be taken for leftovers."""
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / '.lock', 'w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f'{folder}: another process prepares this data set; wait for it') from None
    yield
