"""The readers of files that somebody else wrote: for tests/whole/test_fuzz.py and tests/fuzz_readers.py to mutate."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import importlib.util
import io
import json
import os
import pathlib
import shutil
import tarfile
import tempfile
import zipfile

from hypothesis import strategies as st
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image
import safetensors.numpy
import scipy.io

from dmtl_jax.basics import download, files, photographs, torch_file
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import common
from dmtl_jax.data import label_settings
from dmtl_jax.datasets import folder
from dmtl_jax.datasets.folder import annotated
from dmtl_jax.datasets.folder.listing import File
from dmtl_jax.datasets.pascal import labels as pascal
from dmtl_jax.imports import find, write
from dmtl_jax.imports.classes import Options
from dmtl_jax.imports.photos import Photos
from dmtl_jax.runs import checkpoints, pretrained
from dmtl_jax.tasks import make_task
from dmtl_jax.training import class_weights
from tests import exports, fuzzing, torch_writer
from tests.archives import Item, link, tar, zipped

TASKS = (
    make_task('semseg', 'semseg', ('a', 'b', 'c')), make_task('saliency', 'saliency'), make_task('normals', 'normals'),
    make_task('depth', 'depth'),
)  # fmt: skip
DESCRIPTION = {
    'tasks': {
        'semseg': {'classes': ['a', 'b', 'c'], 'ignore': 200}, 'saliency': {'positive': 255, 'ignore': 128}, 'normals': {},
        'depth': {'scale': 1.0, 'ignore': 65535},
    }
}  # fmt: skip
SIZE = (5, 8)
IMAGES = {'png': 'png', 'jpeg': 'jpg', 'bmp': 'bmp', 'tiff': 'tif', 'webp': 'webp', 'ppm': 'png', 'gif': 'jpg'}


@dataclasses.dataclass(frozen=True)
class Reader:
  """A file and what reads it.

  Attributes:
    name: of the file.
    read: takes its path; raises UserError for what it refuses.
    seeds: contents that it reads.
    few, many: inputs in the suite, and by coverage.
    inputs: contents to try in the suite; default mutations of the seeds.
    write: (path, content) puts the content where it is read.
  """

  name: str
  read: Callable[[pathlib.Path], object]
  seeds: Sequence[bytes]
  few: int
  many: int = 0
  inputs: st.SearchStrategy | None = None
  write: Callable[[pathlib.Path, bytes], object] = pathlib.Path.write_bytes

  def accepts(self, place: pathlib.Path, data: bytes) -> bool:
    """Whether a content is read in a folder of its own; else it must be refused in a sentence."""
    self.write(place / self.name, data)
    return fuzzing.accepts(self.read, place / self.name, 'checkpoints')


def saved(save, *args, **options) -> bytes:
  """What save(stream, ...) writes."""
  stream = io.BytesIO()
  save(stream, *args, **options)
  return stream.getvalue()


def encoded(array, kind: str, **options) -> bytes:
  if kind == 'npy':
    return saved(np.save, array)
  return saved(Image.fromarray(array).save, kind, **options)


def pattern(dtype, most: int, channels: int = 0):
  shape = SIZE + ((channels,) if channels else ())
  return (np.arange(np.prod(shape)).reshape(shape) % (most + 1)).astype(dtype)


def refusing(read):
  """A reader that raises UserError where `read` raises ValueError."""

  def reading(path):
    try:
      read(path)
    except ValueError as error:
      raise UserError(f'{path}: {error}') from error

  return reading


# --- A folder data set -----------------------------------------------------------------------

LABEL = encoded(pattern(np.uint8, 2), 'png')


def write_folder(root: pathlib.Path, label: bytes | None = None):
  """A data set of one image, with a label of segmentation if one is given."""
  (root / 'train/images').mkdir(parents=True)
  (root / 'dataset.json').write_text(json.dumps(DESCRIPTION))
  (root / 'train/images/a.png').write_bytes(encoded(pattern(np.uint8, 255, 3), 'png'))
  if label is not None:
    (root / 'train/labels/semseg').mkdir(parents=True)
    (root / 'train/labels/semseg/a.png').write_bytes(label)


def open_folder(root):
  """Opens the data set and reads every example: what is read must be valid."""
  source = folder.open_folder(str(root), 'train')
  for example in (source[i] for i in range(len(source))):
    assert example['image'].dtype == np.uint8
    for task in source.tasks:
      if task.name in example['labels']:
        label = example['labels'][task.name]
        assert label.dtype == task.label_dtype
        assert label.shape == (*example['image'].shape[:2], task.label_channels)
        assert np.isfinite(label).all()


def read_annotated(path):
  """Reads the lists of three images' annotated classes: what is read must be sets that a task can have."""
  labels = {name: File(str(path.with_name(f'{name}.png')), 0, 0) for name in 'abc'}
  lists = annotated.read(labels, TASKS[0])
  annotated.with_sets(TASKS[0], lists, path.parent)


# --- PyTorch files and mappings --------------------------------------------------------------

# Programs of the instructions a pickle may have, with arguments that mostly fit.
_INSTRUCTIONS = [
    b'N', b'\x88', b')', b']', b'}', b'(', b't', b'\x85', b'\x86', b'\x87', b'a', b'e', b's', b'u', b'R', b'b', b'Q',
    b'\x93', b'\x94', b'K\x01', b'K\x05', b'J\xff\xff\xff\xff', b'G?\xe0\0\0\0\0\0\0', b'\x8a\x09' + b'\xff' * 8 + b'\x00',
    b'X\x07\0\0\0storage', b'X\x01\0\0\x000', b'X\x06\0\0\0latin1', b'X\x02\0\0\0f8', b'X\x0e\0\0\0labels_weights',
    b'ctorch\nFloatStorage\n', b'ctorch._utils\n_rebuild_tensor_v2\n', b'ctorch\nSize\n', b'ccollections\nOrderedDict\n',
    b'cnumpy\ndtype\n', b'cnumpy.core.multiarray\nscalar\n', b'c_codecs\nencode\n', b'ctorch._utils\n_rebuild_parameter\n',
    b'cos\nsystem\n', b'X\x01\0\0\0a', b'C\x08\0\0\0\0\0\0\0\0', b'q\x00', b'q\x01', b'h\x00', b'h\x01', b'.',
]  # fmt: skip
_programs = st.lists(st.sampled_from(_INSTRUCTIONS), max_size=30).map(
  lambda parts: b'\x80\x02' + b''.join(parts) + b'.'
)


def in_zip(path: pathlib.Path, program: bytes):
  """A .pth whose pickle is the input: of a mutated zip hardly any gets past its sums."""
  torch_writer.write_program(path, program, torch_writer.checkpoint()[1])


def load_mapping(path):
  label_settings.load_mapping(path, ['img0', 'img1', 'img2'], TASKS)


def _whole(*contents) -> list[bytes]:
  """Files of both formats."""
  with tempfile.TemporaryDirectory() as place:
    path, writers = pathlib.Path(place, 'x.pth'), (torch_writer.write_zip, torch_writer.write_legacy)
    return [write(path, *content).read_bytes() for write in writers for content in contents]


_STORAGE = torch_writer.Storage(np.arange(12, dtype=np.float32), '0')  # as in `in_zip`
_WEIGHTS = {'labels_weights': torch_writer.tensor(_STORAGE, (3, 2), (2, 1))}
_FLAGS = {f'img{i}': [1, 0, 1, 0, int(i > 1)] for i in range(3)}
_MAPPINGS = [torch_writer.pickled(content) for content in (_FLAGS, _WEIGHTS)]
_PROGRAMS = [torch_writer.pickled(torch_writer.checkpoint()[0]), *_MAPPINGS]
_CSVS = [b'image,tasks\nimg0,semseg;depth\nimg1,\n', b'image,semseg,depth\nimg0,1,0\n"img1",0,1\n']
_odd_csvs = st.sampled_from([b'image,tasks\nimg0,' + b'x' * 200_000, b'\0\n\0', b'"', b'image,a\r\ra'])


# --- Archives --------------------------------------------------------------------------------

_names = st.one_of(
    st.sampled_from(['a', 'a/b', './a', 'a/', '/', '', '.', '..', '../x', 'a/../../x', '/tmp/dmtl_evil', 'C:\\x', '..\\x', 'a//b',
                     'x' * 300, 'd/' * 12 + 'x', 'a\n', '\x1b[2J', '\udcff', 'link', 'link/x']),
    st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=4),
)  # fmt: skip
_kinds = st.sampled_from((tarfile.REGTYPE,) * 4 + (
    tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE,
    tarfile.GNUTYPE_SPARSE,
))  # fmt: skip
_items = st.lists(
  st.builds(Item, _names, st.binary(max_size=9), _kinds, _names, st.integers(0, 0o7777)), min_size=1, max_size=5
)
_PLAIN = [Item('top/one.txt', b'1' * 600), link('top/link', 'one.txt'), Item('top/deep/two.txt', b'22')]
_ARCHIVES = [tar(_PLAIN, mode) for mode in ('w', 'w:gz', 'w:bz2', 'w:xz')]
_ARCHIVES += [zipped(_PLAIN[::2], method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)]


def _unpack(path: pathlib.Path):
  download.extract(path, path.with_name('out'))
  for file in path.with_name('out').rglob('*'):
    assert os.path.realpath(file).startswith(f'{path.parent}/out'), file


def _write_archive(path: pathlib.Path, data: bytes):
  """Beside nothing that an earlier one left."""
  for left in ('out', 'out.incomplete'):
    shutil.rmtree(path.with_name(left), ignore_errors=True)
  path.write_bytes(data)


# --- Weights, checkpoints, config strings ----------------------------------------------------

_STATE = safetensors.numpy.save(
  {'conv.weight': np.ones((2, 3), np.float32), 'module.conv.bias': np.zeros(2, np.float16)}
)
_HEADER = 8 + int.from_bytes(_STATE[:8], 'little')  # bytes: JSON behind its own length


def _with_header(tree) -> bytes:
  text = json.dumps(tree).encode()
  return len(text).to_bytes(8, 'little') + text + _STATE[_HEADER:]


def _fill(path):
  views = {'conv.weight': [np.zeros((2, 3), np.float32)], 'conv.bias': [np.zeros(2, np.float32)]}
  pretrained.fill(views, pretrained.read_state(path), path)


_META = {'format': checkpoints.FORMAT, 'config': {}, 'evaluated': 4, 'window': {}, 'best': {'step': 0, 'scores': {'depth': 1.0}},
         'crc32': {'variables': 1}, 'data': {'next_index': 4}}  # fmt: skip
_opened = functools.cache(functools.partial(checkpoints.Checkpoints, read_only=True))


def _write_meta(path: pathlib.Path, data: bytes):
  """In the place of the meta of a real checkpoint."""
  if not path.with_name('checkpoints').exists():
    with ocp.CheckpointManager(path.with_name('checkpoints')) as manager:
      manager.save(0, args=ocp.args.Composite(meta=ocp.args.JsonSave(_META)))
  (path.parent / 'checkpoints/0/meta/metadata').write_bytes(data)


PARTS = st.one_of(
    st.sampled_from(['method=feature', 'method=', 'diffusion_steps=3', 'diffusion_steps=-1', 'diffusion_steps=' + '9' * 5000, 'labels=\0', '=', 'a=b', ',,',
                     'preset=released', 'method==', 'condition=concat', 'diffusion_steps=１', '\udcff', 'x' * 5000, 'labels=a:b']),
    st.text(st.characters(exclude_categories=['Cs']), max_size=6),
)  # fmt: skip
_strings = st.lists(PARTS, max_size=3).map(lambda parts: ','.join(parts).encode(errors='surrogateescape'))


def _parse(path):
  try:
    assert set(common.parse(path.read_bytes().decode(errors='surrogateescape'))) == set(common.ARGUMENTS)
  except ValueError as error:
    assert str(error).startswith('config string: ')
    assert len(str(error)) < 500
    raise


_PICTURES = [encoded(pattern(np.uint8, 255, 3), kind) for kind in IMAGES]
_PICTURES += [encoded(pattern(np.uint16, 60_000), 'png'), encoded(pattern(np.uint8, 255, 4), 'png')]
_LABEL_MAP = {'LabelMap': np.array([[0, 3], [454, 1]], np.uint16)}
_ids = st.sampled_from([b'../../etc/passwd\n', b'/etc/passwd', b'a\0b', b'a/b', b'..', b'.'])


# --- Exports of labelling tools --------------------------------------------------------------


def import_export(path: pathlib.Path):
  """Imports an export of one image, of which `path` is a file, and reads what was written."""
  root = path.parent / 'mydata'
  with find.opened(str(path.parent / 'export')) as export:
    photos = None if all(image.pixels for image in export.images) else Photos(str(path.parent / 'photos'), root)
    write.join(root, export, photos, Options(background='rest'), path.name)
  for label in root.rglob('labels/semseg/*.png'):
    assert np.asarray(Image.open(label)).shape == (exports.HEIGHT, exports.WIDTH)


def _in_export(kind: str, place: str = ''):
  """Writes the export of a kind, with a content in the place of one of its files."""

  def write_into(path: pathlib.Path, data: bytes):
    for left in ('export', 'mydata'):
      shutil.rmtree(path.parent / left, ignore_errors=True)
    exports.photo(path.parent / 'photos')
    if kind:
      exports.write(path.parent / 'export', kind)
    target = path.parent / 'export' / place / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)

  return write_into


def _import(kind: str, name: str, few: int, inputs=None, place: str = '') -> Reader:
  with tempfile.TemporaryDirectory() as folder:
    source = exports.write(pathlib.Path(folder, 'export'), kind)
    seed = (source if source.is_file() else source / place / name).read_bytes()
  strategy = fuzzing.as_json(json.loads(seed)) if name.endswith('.json') and inputs is None else inputs
  mutated = fuzzing.files(seed) if strategy is None else strategy
  inputs = st.one_of(st.just(seed), mutated)  # few mutations are still an export
  return Reader(name, import_export, [seed], few, 20_000, inputs, _in_export(kind, place))


@st.composite
def _attributes(draw):
  """CVAT's file with values of attributes replaced."""
  values = st.sampled_from(
    ['', '-1', 'nan', '1e400', '0', '1', '24', '9,9;12,9;12,12', '0, 24', '0, 3, 21', 'x' * 300, '&#1;']
  )
  parts = exports.cvat().split('"')
  for _ in range(draw(st.integers(1, 3))):
    parts[1 + 2 * (draw(fuzzing.positions) % (len(parts) // 2))] = draw(values)
  return '"'.join(parts).encode()


@st.composite
def _shares(draw):
  """Lines of YOLO polygons with numbers replaced."""
  words = '1 .17 .56 .42 .56 .42 .81\n0 0 .5 1 .5 1 1 0 1\n'.split(' ')
  for _ in range(draw(st.integers(1, 2))):
    words[draw(fuzzing.positions) % len(words)] = draw(
      st.sampled_from(['', '-3', '7e8', '1', '0', 'nan', '9' * 5000, '\n'])
    )
  return ' '.join(words).encode()


@st.composite
def _colored(draw):
  """A mask in the colours of labelmap.txt, a grey one or another, of the right size or not, with or without alpha."""
  colors = np.array([[0, 0, 0], [128, 64, 128], [0, 0, 142], [1, 2, 3]], np.uint8)
  used = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
  size = draw(st.sampled_from([(exports.HEIGHT, exports.WIDTH)] * 4 + [(1, 1), (exports.WIDTH, exports.HEIGHT)]))
  image = Image.fromarray(colors[np.resize(used, size)])
  return saved(image.convert(draw(st.sampled_from(['RGB', 'RGB', 'RGBA', 'P', 'L', 'LA', '1']))).save, 'png')


_YOLO = b'0 0 0.5 1 0.5 1 1 0 1\n'


def _mask() -> bytes:
  with tempfile.TemporaryDirectory() as place:
    return (exports.write(pathlib.Path(place, 'export'), 'labelmap') / 'SegmentationClass/a.png').read_bytes()


def _imports() -> dict[str, Reader]:
  odd_xml = st.sampled_from([b'<' * 9999, b'<a>' * 9999, ENTITIES])
  found = {
    'COCO polygons': _import('coco', 'instances.json', 30),
    'COCO runs': _import('coco runs', 'instances.json', 30),
    'COCO panoptic': _import('panoptic', 'panoptic.json', 30),
    'map of COCO panoptic': _import('panoptic', 'a.png', 30, place='panoptic'),
    'LabelMe': _import('labelme', 'a.json', 30),
    'Label Studio': _import('label studio', 'project-1.json', 30),
    'CVAT': _import(
      'cvat', 'annotations.xml', 40, st.one_of(odd_xml, _attributes(), fuzzing.files(exports.cvat().encode()))
    ),
    'YOLO labels': _import('yolo', 'a.txt', 40, st.one_of(_shares(), fuzzing.files(_YOLO)), 'labels/train'),
    'YOLO classes': _import('yolo', 'data.yaml', 30),
    'labelmap.txt': _import('labelmap', 'labelmap.txt', 30),
    'colour mask': _import('labelmap', 'a.png', 30, st.one_of(_colored(), fuzzing.files(_mask())), 'SegmentationClass'),
    'Cityscapes polygons': _import('cityscapes polygons', 'a_gtFine_polygons.json', 30, place='gtFine/train/aachen'),
  }
  if importlib.util.find_spec('h5py'):
    with tempfile.TemporaryDirectory() as folder:
      exports.nyu(pathlib.Path(folder, 'nyu.mat'), frames=1)
      seed = pathlib.Path(folder, 'nyu.mat').read_bytes()
    found['NYU .mat'] = Reader('nyu.mat', import_export, [seed], 30, write=_in_export(''))
  return found


ENTITIES = (
  b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
  + b''.join(
    b'<!ENTITY %s "%s">' % (after, b'&%s;' % before * 10)
    for before, after in zip((b'a', b'b', b'c'), (b'b', b'c', b'd'))
  )
  + b']><annotations>&d;</annotations>'
)


def _json(name: str, read, value, few: int, many: int, **more) -> Reader:
  return Reader(name, read, [json.dumps(value).encode()], few, many, fuzzing.as_json(value), **more)


READERS = {
  'pickle in .pth': Reader(
    'x.pth', torch_file.load, _PROGRAMS, 100, 130_000, st.one_of(_programs, fuzzing.files(*_PROGRAMS)), in_zip
  ),
  'whole .pth': Reader(
    'x.pth', torch_file.load, _whole((_WEIGHTS, [_STORAGE]), (_FLAGS,), torch_writer.checkpoint()), 120, 100_000
  ),
  'whole .pth as a mapping': Reader('x.pth', load_mapping, _whole((_WEIGHTS, [_STORAGE]), (_FLAGS,)), 120),
  'mapping in .pth': Reader('x.pth', load_mapping, _MAPPINGS, 50, 80_000, write=in_zip),
  'mapping .csv': Reader('m.csv', load_mapping, _CSVS, 150, 100_000, st.one_of(_odd_csvs, fuzzing.files(*_CSVS))),
  'mapping .json': _json('m.json', load_mapping, {'img0': ['semseg', 'depth'], 'img1': []}, 40, 100_000),
  'dataset.json': _json('dataset.json', folder.read_description, DESCRIPTION, 80, 130_000),
  'annotated.json': _json('annotated.json', read_annotated, {'a': ['a'], 'b': ['b', 'a'], 'c': ['a', 'b', 'c']}, 40, 100_000),
  'class_weights.json': _json('w.json', lambda path: class_weights.read(path, TASKS), {'semseg': {'a': 2, 'c': 0.5}}, 40, 100_000),
  '.safetensors': Reader(
    'x.safetensors', _fill, [_STATE], 60, 100_000,
    st.one_of(fuzzing.files(_STATE), fuzzing.trees(json.loads(_STATE[8:_HEADER])).map(_with_header)),
  ),
  '.npy': Reader('x.npy', refusing(files.read_npy), [saved(np.save, np.eye(3))], 40, 100_000),
  '.mat': Reader(
    'x.mat', pascal.read_label_map, [saved(scipy.io.savemat, _LABEL_MAP, do_compression=it) for it in (False, True)], 40, 80_000
  ),
  'archive': Reader(
    'archive', _unpack, _ARCHIVES, 100, 30_000,
    st.one_of(_items.map(lambda items: tar(items, 'w')), _items.map(zipped), fuzzing.files(*_ARCHIVES), _items.map(tar)),
    _write_archive,
  ),
  'config string': Reader(
    'config', refusing(_parse), [b'method=feature,labels=one,diffusion_steps=3,preset=released'], 150, 100_000, _strings
  ),
  'meta of a checkpoint': _json(
    'meta', lambda path: _opened(path.parent).choose('best'), _META, 50, 20_000, write=_write_meta
  ),
  'image to predict': Reader('x.png', photographs.read_image, _PICTURES, 60),
  **_imports(),
  'ids of PASCAL': Reader(
    'train.txt', pascal.read_ids, [b'2008_000001\n2008_000002\n'], 60,
    inputs=st.one_of(_ids, fuzzing.files(b'2008_000001\n2008_000002\n')),
  ),
}  # fmt: skip
