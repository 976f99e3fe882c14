"""The job `--mode=import`: reads a labelling tool's export and writes, or adds to, a folder data set."""

import pathlib

from dmtl_jax.basics import stopping
from dmtl_jax.basics.errors import check_local, is_plain, join_names, program, sanitize, UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.imports import find, write
from dmtl_jax.imports.classes import Options
from dmtl_jax.imports.export import Export, REST
from dmtl_jax.imports.photos import Photos
from dmtl_jax.imports.write import Summary
from dmtl_jax.inference.images import count_of
from dmtl_jax.tasks import IGNORE

KEPT = 'the folder is as it was before'


def run(data, source: str, images: str | None, colors: str | None, options: Options) -> Summary:
  """Imports an export into the folder config.data.path and prints what was done.

  Args:
    data: config.data.
    source: file, folder or zip of the export.
    images: the photographs (see `inference.images.find_images`); None where the export holds them.
    colors: file with the colours of masks.

  Raises:
    UserError: says what does not fit; nothing is written.
  """
  if data.name != 'folder':
    raise UserError(f"--config: --mode=import writes a folder of images, not '{data.name}'; leave out --config")
  if not data.path or not is_plain(data.path):
    raise UserError('config.data.path: give the folder to write to with --config.data.path=PATH')
  check_local('config.data.path', data.path)
  root = pathlib.Path(data.path).expanduser()
  classes = list(options.classes) if options.classes else None
  with stopping.report_interruption(lambda: KEPT, root), find.opened(source, colors, classes) as export:
    photos = open_photos(export, images, root)
    name = pathlib.Path(source).expanduser().absolute().name
    summary = write.join(root, export, photos, options, name)
  _report(root, export, photos, options, summary)
  return summary


def open_photos(export: Export, images: str | None, root: pathlib.Path) -> Photos | None:
  """The photographs of --images; None where the export holds them."""
  holds_them = all(image.pixels for image in export.images)
  if holds_them and images:
    raise UserError(f'--images: the export of {export.tool} holds its photographs; leave it out')
  if not holds_them and not images:
    raise UserError('--mode=import needs --images, the folder of the photographs that were labelled; see --help')
  masks = [path for image in export.images for path in image.masks]
  return Photos(images, root, masks) if images else None


def _report(root: pathlib.Path, export: Export, photos: Photos | None, options: Options, summary: Summary):
  how = {'linked': 'linked, not copied', 'copied': 'copied', 'written': 'written', 'already there': 'already there'}
  counts = ', '.join(f'{n} {how[key]}' for key, n in summary.images.items())
  named = count_of(len(export.images), 'image')
  total = count_of(sum(summary.images.values()), 'photograph')
  say(f'{export.tool}: {named} in the export; {total} in {root} ({counts})')
  for task, number in summary.labels.items():
    say(f'  {task}: {count_of(number, "label")}' + (f': {_shares(options, summary)}' if task == options.task else ''))
  if summary.unchanged:
    say(f'  {summary.unchanged} of these labels were already there')
  lines = [f'{what}: {number}' for what, number in summary.notes.items() if number]
  if summary.missing:
    lines.append(f'no photograph among --images for {len(summary.missing)} images: {join_names(summary.missing)}')
  if photos and photos.unsupported:
    lines.append(
      f'photographs not read: {join_names([path.name for path in photos.unsupported])}; convert them to JPEG'
    )
  then = 'which --force removes'
  if summary.others:
    then = f'since other labels of the task came from {join_names(summary.others)}'
  images = {
    f'images without a drawn region that keep the label they had, {then}': summary.kept,
    'labels removed, as nothing is drawn any more': summary.removed,
    'images not in the export or not among --images, which keep the label they had': (
      summary.unnamed if options.force else []
    ),
    'labels turned with their photographs': summary.turned,
    'photographs that EXIF turns, their labels taken to fit what viewers show': summary.ambiguous,
  }
  lines += [f'{what}: {len(names)} ({join_names(names)})' for what, names in images.items() if names]
  asked = options.is_binary or options.background or options.annotated
  if not asked and len(summary.classes) > 1 and summary.pixels[IGNORE] > sum(summary.pixels.values()) / 2:
    lines.append(
      'most pixels are unlabelled, and a prediction gives each of them one of these classes; if they are none of '
      'these, import again with --background=NAME --force'
    )
  for line in [*lines, *summary.remarks]:
    say(f'  {sanitize(line, 1000)}')
  say(f'next: {program()} --mode=check --config=configs/folder.py --config.data.path={root}')


def _shares(options: Options, summary: Summary) -> str:
  """'road 30%, car 2%, unlabelled 68% of the pixels; nowhere: sky'."""
  names = dict(enumerate(summary.classes or ('no', 'yes'))) | {REST: 'none of the annotated', IGNORE: 'unlabelled'}
  total = sum(summary.pixels.values())
  parts = [f'{names[value]} {100 * n / total:.3g}%' for value, n in summary.pixels.most_common()]
  nowhere = [name for i, name in enumerate(summary.classes) if name in summary.taken and i not in summary.pixels]
  return ', '.join(parts) + ' of the pixels' + (f'; nowhere: {join_names(nowhere, 10)}' if nowhere else '')
