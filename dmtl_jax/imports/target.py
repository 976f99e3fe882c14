"""The folder data set that an import adds to, as it is before: perhaps not there yet."""

import itertools
import pathlib

from dmtl_jax.basics import files, photographs
from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.datasets.folder import listing
from dmtl_jax.imports.export import checked, class_name, field

SPLITS = ('train', 'val')
LOG = 'imports'  # field of dataset.json: what was imported, in order


class Target:
  """What the folder `root` holds.

  Attributes:
    description: path of its dataset.json.
    content: what that holds.
    images: {id: (split, path)}; those of the pool, PATH/unlabelled, are training images.
    folders: {split: folder of its images and labels}.
  """

  def __init__(self, root: pathlib.Path):
    self.root = root
    self.description = root / 'dataset.json'
    self.content: dict = {'tasks': {}}
    if self.description.exists():
      where = str(self.description)
      self.content = checked(f'{where}: the content', files.read_json(self.description), dict)
      for name, entry in field(where, self.content, 'tasks', dict).items():
        checked(f'{where}: "tasks"."{sanitize(name, 40)}"', entry, dict)
      field(where, self.content, LOG, list, [])
    self.folders = {split: listing.split_folder(root, split) for split in SPLITS}
    self.images: dict[str, tuple[str, pathlib.Path]] = {}
    for split, place in [('train', root / listing.POOL), *((s, path / 'images') for s, path in self.folders.items())]:
      self.images |= {id: (split, path) for id, path in listed(place, photographs.suffixes()).items()}

  def classes(self, task: str, kind: str) -> tuple[str, ...]:
    """Classes that the task already has; raises UserError if labels cannot be added to it."""
    entry = self.content['tasks'].get(task)
    if entry is None:
      return ()
    where = f'{self.description}: "tasks"."{task}"'
    if (other := field(where, entry, 'kind', str, task)) != kind:
      raise UserError(f'{where} is of kind {sanitize(other, 40)}, not {kind}; choose another name with --task=NAME')
    for name in ('ignore', 'positive', 'scale'):
      if name in entry:
        raise UserError(
          f'{where}: its labels have "{name}", and imported ones do not; choose another name with --task=NAME'
        )
    names = field(where, entry, 'classes', list, [])
    return tuple(class_name(f'{where}: "classes"[{i}]', name) for i, name in enumerate(names))

  def background(self, task: str) -> str:
    """The class that an earlier import gave to what was not drawn; '' for none."""
    for entry in self.content.get(LOG, []):
      if isinstance(entry, dict) and entry.get('task') == task and isinstance(entry.get('background'), str):
        return entry['background']
    return ''

  def formats(self, task: str) -> set[str]:
    """The formats of the exports from which the labels of a task came; empty if nothing was imported for it."""
    log = [entry for entry in self.content.get(LOG, []) if isinstance(entry, dict) and entry.get('task') == task]
    return {entry['format'] for entry in log if isinstance(entry.get('format'), str)}

  def forget_imports(self, task: str):
    """Drops the imports of a task, all labels of which are replaced."""
    is_other = [not isinstance(entry, dict) or entry.get('task') != task for entry in self.content.get(LOG, [])]
    self.content[LOG] = list(itertools.compress(self.content.get(LOG, []), is_other))

  def annotated(self, split: str, task: str) -> dict[str, list[str]]:
    """The content of a split's annotated.json: the classes that were annotated in each image it lists."""
    path = self.annotated_path(split, task)
    if not path.exists():
      return {}
    content = checked(f'{path}: the content', files.read_json(path), dict)
    for id, names in content.items():
      for name in checked(f'{path}: "{sanitize(id, 40)}"', names, list):
        checked(f'{path}: "{sanitize(id, 40)}"', name, str)
    return content

  def annotated_path(self, split: str, task: str) -> pathlib.Path:
    return self.folders[split] / 'labels' / task / 'annotated.json'


def listed(folder: pathlib.Path, suffixes: tuple[str, ...] = listing.LABEL_SUFFIXES) -> dict[str, pathlib.Path]:
  """{id: path} of a folder's files with these suffixes, without hidden ones; empty if there is no folder."""
  if not folder.is_dir():
    return {}
  paths = (path for path in folder.iterdir() if not path.name.startswith('.'))
  return {files.nfc(path.stem): path for path in paths if path.name.lower().endswith(suffixes)}
