"""`scenes`, the embedded data set: rendered rooms with six tasks, made on first use; see README.md."""

from collections.abc import Sequence
import functools

from dmtl_jax.basics.files import decode_image
from dmtl_jax.datasets import stored
from dmtl_jax.datasets.scenes import labels
from dmtl_jax.datasets.scenes.classes import CLASSES
from dmtl_jax.datasets.scenes.figure import PARTS
from dmtl_jax.datasets.scenes.scenes_dataset_builder import Builder, ScenesConfig
from dmtl_jax.datasets.source import Source
from dmtl_jax.tasks import make_task, Task

TASKS = (
  make_task('semseg', 'semseg', CLASSES),
  make_task('parsing', 'parsing', ('background', *PARTS)),
  make_task('saliency', 'saliency'),
  make_task('normals', 'normals'),
  make_task('boundary', 'boundary'),
  make_task('depth', 'depth'),
)


def open_split(data_config, split: str) -> Source:
  """The split 'train' or 'val', rendered now if it is not there.

  Args:
    data_config: dir, size (H, W) and, if not the default, train_count, val_count, seed.

  Raises:
    UserError: a setting out of range.
  """
  return stored.open_split(builder(data_config), split, TASKS, decode, units={'depth': 'm'})


def builder(data_config) -> Builder:
  """The data set of `open_split`'s settings, rendered."""
  optional = {name: data_config[name] for name in ('train_count', 'val_count', 'seed') if name in data_config}
  height, width = data_config.size
  config = ScenesConfig(height=height, width=width, **optional)
  config = Builder.builder_configs.setdefault(config.name, config)  # TFDS wants the same object again, or warns
  make = functools.partial(Builder, config=config, data_dir=data_config.dir, file_format='array_record')
  rendered = make()
  if rendered.data_path.exists():
    return rendered
  with stored.lock(rendered, wait=True):
    if not rendered.data_path.exists():  # no other process has made it while this one waited
      stored.build(rendered)
  return make()


def decode(example: dict, tasks: Sequence[Task] = TASKS) -> dict:
  """One example of `builder(...).as_data_source(split)`, PNG files as bytes, as `Source.read` gives it.

  Labels of other tasks cost nothing.
  """
  decoded = {task.name: labels.decode(task.name, example[task.name]) for task in tasks}
  return dict(image=decode_image(example['image']), labels=decoded)
