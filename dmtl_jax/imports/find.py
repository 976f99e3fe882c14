"""Recognises the format of an export by its content, and reads it."""

import collections
from collections.abc import Iterator
import contextlib
import os
import pathlib
import re
import tempfile

from dmtl_jax.basics import download, files
from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.imports import cityscapes, coco, cvat, label_studio, labelme, masks, nyu, yolo
from dmtl_jax.imports.export import Export, is_ignored, JSON_BYTES

LOOKED_FOR = (
  'COCO, LabelMe, Label Studio and Cityscapes JSON, CVAT for images 1.1 XML, YOLO data.yaml or classes.txt with '
  'labels/*.txt, PNG masks with --colors or labelmap.txt or in SegmentationClass, NYU Depth v2 .mat'
)
MAX_FILES = 2_000_000
STUDIO_MASK = re.compile(r'task-\d+-annotation-\d+-by-.*')  # of Label Studio's export "Brush labels to PNG"


@contextlib.contextmanager
def opened(path: str, colors: str | None = None, classes: list[str] | None = None) -> Iterator[Export]:
  """Reads an export, whose labels can be drawn in the `with` block: a zip is unpacked for its time.

  Args:
    path: file, folder or zip.
    colors: file with the colours or ids of the classes of masks (see `masks.read_colors`).
    classes: those to take, for a file with too many.

  Raises:
    UserError: says what is wrong, or what was looked for.
  """
  root = pathlib.Path(path).expanduser()
  if not root.exists():
    raise UserError(f'--from={sanitize(path)}: no such file or folder; give what the labelling tool exported')
  if colors and not pathlib.Path(colors).expanduser().is_file():
    raise UserError(f'--colors={sanitize(colors)}: no such file; write {masks.EXAMPLE} to it, or give a labelmap.txt')
  with _unpacked(root) as source:
    found = [source] if source.is_file() else list(_files(source))
    color_file = pathlib.Path(colors).expanduser() if colors else None
    export = _read_files(source, found, color_file, classes)
    export.classes = [name for name in export.classes if not is_ignored(name)]
    if not export.images:
      raise UserError(f'--from={sanitize(path)}: {export.tool}, but no image is named in it; export it again')
    yield export


@contextlib.contextmanager
def _unpacked(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """The path itself; of a zip, the folder to which it is unpacked until the end of the block."""
  if path.suffix.lower() != '.zip':
    yield path
    return
  with tempfile.TemporaryDirectory() as place:
    yield download.extract(path, pathlib.Path(place, path.stem))


def _files(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """The files of a folder and its subfolders, in order, without hidden ones."""
  count = 0
  for folder, folders, names in os.walk(root):
    folders[:] = sorted(name for name in folders if not name.startswith(('.', '__MACOSX')))
    for name in sorted(names):
      count += 1
      if count > MAX_FILES:
        raise UserError(f'--from={root}: more than {MAX_FILES} files; give the folder of the export only')
      if not name.startswith('.'):
        yield pathlib.Path(folder, name)


def _read_files(root: pathlib.Path, paths: list[pathlib.Path], colors, classes) -> Export:
  by_suffix: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
  for path in paths:
    by_suffix[path.suffix.lower()].append(path)
  if studio_masks := [path for path in by_suffix['.png'] if STUDIO_MASK.fullmatch(path.name)]:
    raise UserError(
      f"{studio_masks[0]}: Label Studio's masks do not name their photographs; export the project as JSON instead"
    )
  has_masks = bool(by_suffix['.png']) and (colors or any(_is_mask_folder(path) for path in paths))
  formats = {
    'NYU Depth v2': by_suffix['.mat'],
    'YOLO': yolo.label_files(paths) if yolo.names_files(paths) else [],
    'Cityscapes': cityscapes.matches(paths),
    'masks': has_masks,
  }
  found = [name for name, files_of_it in formats.items() if files_of_it]
  if len(found) > 1:
    raise _ambiguous(root, found)
  match found:
    case ['NYU Depth v2']:
      if len(by_suffix['.mat']) > 1:
        raise UserError(f'--from={root}: {len(by_suffix[".mat"])} .mat files; give one of them')
      return nyu.read(by_suffix['.mat'][0], classes)
    case ['YOLO']:
      return yolo.read(paths)
    case ['Cityscapes']:
      return cityscapes.read(paths)
    case ['masks']:
      return masks.read(paths, colors)
  return _read_texts(root, by_suffix)


def _is_mask_folder(path: pathlib.Path) -> bool:
  return path.name == 'labelmap.txt' or 'SegmentationClass' in path.parts


def _ambiguous(root: pathlib.Path, found: list[str]) -> UserError:
  return UserError(f'--from={root}: could be {" or ".join(found)}; give the file or folder of one of them')


def _read_texts(root: pathlib.Path, by_suffix: dict[str, list[pathlib.Path]]) -> Export:
  """Reads the JSON and XML files, which must all be of one format; others are counted."""
  exports: list[Export] = []
  others = []
  for path in by_suffix['.json'] + by_suffix['.xml']:
    pngs = by_suffix['.png'] or _pngs_beside(path)
    if export := _read_text(path, pngs, root):
      exports.append(export)
    else:
      others.append(path)
  tools = sorted({export.tool for export in exports})
  if len(tools) > 1:
    raise _ambiguous(root, tools)
  if not exports:
    what = f'{join_names(others)} is none of these' if others else 'found none of these'
    if by_suffix['.png'] and not others:
      what = f'masks need the names of their classes: --colors=FILE with {masks.EXAMPLE}'
    raise UserError(f'--from={root}: {what}; looked for {LOOKED_FOR}')
  whole = Export(tools[0], list(dict.fromkeys(name for export in exports for name in export.classes)), [])
  if tools[0] in ('LabelMe', 'Label Studio'):  # each file names only the classes that occur in it
    whole.classes.sort()
  for export in exports:
    whole.images += export.images
    whole.notes.update(export.notes)
  if others:
    whole.notes[f'files of another kind, left out ({join_names([path.name for path in others])})'] = len(others)
  return whole


def _pngs_beside(path: pathlib.Path) -> list[pathlib.Path]:
  """The maps of a panoptic JSON that was given alone: those in the folder of its name."""
  folder = path.with_suffix('')
  return sorted(folder.glob('*.png')) if folder.is_dir() else []


def _read_text(path: pathlib.Path, pngs: list[pathlib.Path], root: pathlib.Path) -> Export | None:
  """Reads a JSON or XML file; None if it is of no format we know."""
  if path.suffix.lower() == '.xml':
    tree = cvat.parse(path)
    return cvat.read(path, tree) if cvat.is_cvat(tree) else None
  content = files.read_json(path, 'export it again', JSON_BYTES)
  if coco.is_coco(content):
    return coco.read(path, content, pngs)
  if labelme.is_labelme(content):
    return labelme.read(path, content, root)
  if label_studio.is_label_studio(content):
    return label_studio.read(path, content)
  return None
