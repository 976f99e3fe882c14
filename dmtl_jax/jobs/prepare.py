"""The job `--mode=prepare`: builds the data set that training reads from raw benchmark data."""

from pathlib import Path

from absl import logging

from dmtl_jax.basics import download, stopping
from dmtl_jax.basics.errors import check_local, UserError
from dmtl_jax.data import source as source_lib
from dmtl_jax.datasets import raw as raw_lib
from dmtl_jax.datasets import stored

ARCHIVES = ('.zip', '.tar', '.tgz', '.tar.gz', '.tar.bz2', '.tar.xz')
MAX_NESTED = 2  # levels of archives: Dropbox wraps a folder, and any archive in it, into a zip


def run(config) -> Path:
  """Builds the TFDS data set `config.data.name` from raw data, and downloads the benchmark's files for it.

  A data set that is already built is kept; an interrupted build starts again.

  Args:
    config: `data` holds name, dir (TFDS data_dir), raw (folder, archive or http(s) address of the raw
      data), raw_sha256 (of the archive; 'unknown' to trust an address), size ((H, W) that images of one
      size must have), workers (processes that encode; 0: one per core) and labels (the official mapping
      of this setting is required; other files that cannot be downloaded only cause a warning).

  Returns:
    The folder of the prepared data.

  Raises:
    UserError: says what is missing or broken, and what to do.
  """
  data = config.data
  builder_type = builder_class(data.name)
  check_local('config.data.dir', data.dir)  # prepared data can be copied to a bucket
  builder = builder_type(data_dir=data.dir, file_format='array_record')
  states = {True: 'is whole', False: 'is not built, and the same command starts again'}
  with (
    stopping.report_interruption(lambda: f'{builder.data_path} {states[builder.data_path.exists()]}', data.dir),
    stored.lock(builder, wait=False),
  ):
    if not builder.data_path.exists():
      _build(builder, data)
    counts = [f'{info.num_examples} images in {split}' for split, info in builder.info.splits.items()]
    print(f'{builder.data_path}: {", ".join(counts)} (delete the folder to build it anew)')
    fetch_official(builder, data.labels)
  return Path(builder.data_path)


def builder_class(name: str) -> type[raw_lib.RawBuilder]:
  """The builder of a data set made of raw files; raises UserError for a data set that needs none."""
  builder = _find_builder(name)
  if not issubclass(builder, raw_lib.RawBuilder):
    prepared = [known for known in source_lib.names() if issubclass(_find_builder(known), raw_lib.RawBuilder)]
    raise UserError(f"config.data.name: '{name}' needs no preparation; prepare is for {', '.join(prepared)}")
  return builder


def _find_builder(name: str) -> type:
  return getattr(source_lib.package(name), 'Builder', object)


def _build(builder, data):
  builder.processes = data.get('workers', 0)
  builder.size = tuple(data.size)
  stored.build(builder, raw_folder(data, builder.MARKER))
  for split, expected in builder.IMAGES.items():
    image_count = builder.info.splits[split].num_examples
    if image_count != expected:
      logging.warning('%s: %d images in %s, the benchmark has %d', builder.name, image_count, split, expected)
  for what, count in builder.info.metadata.get('invalid', {}).items():
    logging.warning(
      '%s: %s: %d values are out of range or no numbers; README.md tells what they became', builder.name, what, count
    )


def raw_folder(data, marker: str) -> Path:
  """The folder of the raw data: `data.raw` itself, or where it is unpacked or downloaded below `data.dir`.

  Args:
    marker: a file or folder that raw data have.

  Raises:
    UserError: no raw data given or image_count, or a download without a checksum.
  """
  folder = Path(data.dir).expanduser()
  sha256 = data.get('raw_sha256', '')
  readme = f'datasets/{data.name}/README.md tells where to get the data'
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
    if path.is_file() and sha256:
      download.check(path, sha256)
  return _unpacked(path, folder / 'extracted', marker)


def _unpacked(path: Path, extracted: Path, marker: str, nested: int = MAX_NESTED) -> Path:
  """The folder `path`, or unpacked if it is an archive; without the marker, the only archive in it is unpacked too."""
  if path.is_file():
    # With the size in its name, so that another archive of the same name gets another folder.
    target = extracted / f'{path.name}-{path.stat().st_size}'
    logging.info('%s: unpacking into %s (may be deleted when the data set is built)', path, target)
    path = download.extract(path, target)
    nested -= 1
  inner = [p for pattern in ('*', '*/*') for p in path.glob(pattern) if p.name.lower().endswith(ARCHIVES)]
  if nested and len(inner) == 1 and not raw_lib.find_roots(path, marker):
    return _unpacked(inner[0], extracted, marker, nested)
  return path


def fetch_official(builder, labels: str):
  """Downloads the missing files of checksums.tsv next to the prepared data.

  Raises UserError if the official mapping of `labels` (config.data.labels) cannot be downloaded.
  """
  for url, info in (builder.url_infos or {}).items():
    try:
      download.download(url, stored.official_file(builder, info.filename), info.checksum)
    except UserError as error:
      problem = f'the data set is ready, but not {info.filename}: {error}'
      if info.filename == builder.OFFICIAL.get(labels):
        raise UserError(problem) from error
      logging.warning('%s', problem)
