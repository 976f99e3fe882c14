"""The jobs of the command line as functions. Use them by way of `dmtl_jax`, as in `dmtl_jax.train`."""

from collections.abc import Sequence
import importlib.util
import os
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dmtl_jax import configs
from dmtl_jax.basics import bucket_copy
from dmtl_jax.basics.errors import check_local, sanitize, UserError
from dmtl_jax.configs import check as check_config
from dmtl_jax.datasets.source import Source
from dmtl_jax.imports.classes import Options
from dmtl_jax.imports.write import Summary
from dmtl_jax.jobs import app as app_job
from dmtl_jax.jobs import check as check_job
from dmtl_jax.jobs import evaluate as evaluate_job
from dmtl_jax.jobs import import_labels as import_job
from dmtl_jax.jobs import predict as predict_job
from dmtl_jax.jobs import predict_labels as predict_labels_job
from dmtl_jax.jobs import publish as publish_job
from dmtl_jax.jobs import suggest as suggest_job
from dmtl_jax.jobs import train as train_job
from dmtl_jax.runs import hub
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.training import setup


def get_config(name: str, /, **fields: Any) -> ConfigDict:
  """Returns the config of a run, locked: assigning a field that does not exist raises an error.

  Args:
    name: a config string as for the flag ``--config``: ``'NAME:key=value,key=value'``. NAME is one of cityscapes,
      folder, nyud, pascal and scenes, or the path of a config file.
    **fields: values of any fields, by their dotted names.

  Raises:
    UserError: no such config or field, or a value of the wrong type or out of range.

  Example:
    >>> config = dmtl_jax.get_config('scenes:method=feature,labels=one', **{'train.steps': 100})
    >>> config.optim.lr = 5e-4
  """
  path, _, argument = configs.find(name).partition(':')
  spec = importlib.util.spec_from_file_location('config', path)
  if not (spec and spec.loader):
    raise UserError(f'{path}: not a Python file')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  try:
    config = module.get_config(argument or None)
  except ValueError as error:
    raise UserError(str(error)) from error
  return _set_fields(config, fields)


def open_data(config: ConfigDict) -> 'Data':
  """Opens the data set of a config, with the labels that training may see; renders or checks it where needed.

  Raises:
    UserError: the data are missing or broken.

  Example:
    >>> data = dmtl_jax.open_data(dmtl_jax.get_config('scenes:labels=one'))
    >>> example = data.train[0]  # {'image': uint8 [H, W, 3], 'labels': {task: [H, W, K]}, 'index': 0}
  """
  bucket_copy.renew()
  data = setup.open_data(config)
  return Data(data.train, data.val)


class Data(NamedTuple):
  """The two splits of a data set, each with `len(split)`, `split[i]`, `split.ids` and `split.tasks`."""

  train: Source
  val: Source


def import_labels(
  source: str | os.PathLike,
  images: str | os.PathLike | None,
  path: str | os.PathLike,
  colors: str | os.PathLike | None = None,
  **options: Any,
) -> Summary:
  """Adds a labelling tool's export to a folder that training reads, which is made if it is not there.

  Args:
    source: file, folder or zip of the export; its format is recognised.
    images: folder or glob of the photographs that were labelled; None where the export holds them.
    path: the folder to write to, later config.data.path.
    colors: file with the colours of masks.
    **options: fields of `imports.classes.Options`: task, kind, classes, background, annotated, empty,
      force.

  Returns:
    How many photographs and labels there are, and what was left out and why.

  Raises:
    UserError: something does not fit; nothing is written.

  Example:
    >>> dmtl_jax.import_labels('coco.json', 'photos', 'mydata')
    >>> dmtl_jax.import_labels('masks.zip', 'photos', 'mydata', task='saliency')
  """
  data = get_config('folder', **{'data.path': os.fspath(path)}).data
  photographs = None if images is None else os.fspath(images)
  color_file = None if colors is None else os.fspath(colors)
  return import_job.run(data, os.fspath(source), photographs, color_file, Options(**options))


def check(config: ConfigDict, out: str | None = None, write: bool = False) -> check_job.Report:
  """Reads every image and label of a config's data, prints what they hold, and draws a dozen labels.

  Args:
    config: of the run that will be trained.
    out: PNG file to draw to; default runs/check_NAME.png, with the name of the data set.
    write: write what is proposed for labels that the folder's dataset.json does not describe.

  Returns:
    A report with `text`, `picture` (path of the drawing, or None) and `is_trainable`.

  Raises:
    UserError: the config cannot be trained, whatever the data are.

  Example:
    >>> config = dmtl_jax.get_config('folder', **{'data.path': 'mydata'})
    >>> dmtl_jax.check(config).is_trainable
    True
  """
  bucket_copy.renew()
  return check_job.examine(config, out, write)


def train(config: ConfigDict, workdir: str | os.PathLike, force: bool = False) -> dict | None:
  """Trains a run, or resumes it from its last checkpoint; evaluates it and writes a report.

  On CPUs it is faster after ``keep_freed()`` of ``dmtl_jax.basics.memory``: the process then keeps what it has freed.

  Args:
    config: of the run.
    workdir: folder for checkpoints, logs, scores and pictures.
    force: resume even if the config, the labels or names of classes have changed.

  Returns:
    The scores that metrics.json holds; None if Ctrl-C or SIGTERM stopped the run.

  Raises:
    UserError: bad config or data, a locked or full workdir, or a loss that is not finite.

  Example:
    >>> metrics = dmtl_jax.train(dmtl_jax.get_config('scenes'), 'runs/scenes')
    >>> metrics['final']['semseg']['mIoU']
  """
  bucket_copy.renew()
  return train_job.run(config, os.fspath(workdir), force)


def evaluate(
  workdir: str | os.PathLike,
  step: str | int = '',
  predictions: bool = False,
  force: bool = False,
  out: str | os.PathLike | None = None,
  **fields: Any,
) -> dict:
  """Scores a checkpoint on the whole validation split; writes metrics.json, per_image.csv and panels/.

  Args:
    workdir: folder of the run, or its address on the Hub, see `load`.
    step: checkpoint: 'best', 'latest' or a step; by default config.eval.weights.
    predictions: also write the final maps of every image.
    force: accept classes that have been renamed.
    out: folder for the results; None: the workdir, and for a run of the Hub runs/OWNER--RUN.
    **fields: values that differ from the run's own config, by dotted names.

  Returns:
    The scores that metrics.json holds.

  Raises:
    UserError: no run or checkpoint there, or data with other tasks or classes.

  Example:
    >>> metrics = dmtl_jax.evaluate('runs/scenes', 'latest')
    >>> metrics = dmtl_jax.evaluate('runs/scenes', **{'eval.diffusion_steps': 4})  # writes metrics_4.json
  """
  bucket_copy.renew()
  folder = _run_folder(workdir)
  config = _set_fields(workdir_lib.read_config(folder), fields)
  return evaluate_job.run(config, folder, str(step), predictions, force, _local_folder(out))


def predict(
  workdir: str | os.PathLike,
  images: str | os.PathLike | Sequence[str | os.PathLike],
  out: str | os.PathLike,
  step: str | int = 'best',
  samples: int = 1,
  zoom: float | None = None,
) -> bool:
  """Writes panels, overlays and arrays of predictions for image and video files.

  A stopped call, made again, goes on with the files that are not predicted yet.

  Args:
    workdir: folder of the run, or a name, as for `load`.
    images: files, folders, globs and videos.
    out: folder for the results: OUT/NAME.png, OUT/TASK/NAME.npy and so on.
    step: checkpoint: 'best', 'latest' or a step.
    samples: noise draws to average; more than one also give maps of uncertainty.
    zoom: magnification of the tiles that the network sees; 1 shows it whole images only.

  Returns:
    Whether every file could be read; the others are named and skipped.

  Raises:
    UserError: no run, no image, options that do not fit, or an `out` that cannot be written.

  Example:
    >>> dmtl_jax.predict('runs/scenes', ['photos', 'walk.mp4'], 'maps', samples=8)
    True
  """
  return not predict_job.run(os.fspath(workdir), str(step), _paths(images), _local_folder(out), samples, zoom)


def predict_labels(
  workdir: str | os.PathLike,
  images: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
  out: str | os.PathLike | None = None,
  step: str | int = 'best',
  confidence: float = predict_labels_job.CONFIDENCE,
) -> bool:
  """Writes predictions as labels that training can read (config.data.predicted_labels), for images that have none.

  A stopped call, made again, goes on as `predict` does.

  Args:
    workdir: folder of the run, or its address on the Hub.
    images: as for `predict`; None: those of the folder that the run was trained on.
    out: folder for the labels, OUT/TASK/NAME.png; None: where training finds them, PATH/train/predicted.
    step: checkpoint: 'best', 'latest' or a step.
    confidence: probability of its class below which a pixel is left unlabelled, 0 to 1.

  Returns:
    Whether every file could be read; the others are named and skipped.

  Raises:
    UserError: as `predict`, or the folder has other classes than the run.

  Example:
    >>> dmtl_jax.predict_labels('runs/mine')
    True
  """
  bucket_copy.renew()
  files = None if images is None else _paths(images)
  return not predict_labels_job.run(_run_folder(workdir), str(step), files, _local_folder(out), confidence=confidence)


def suggest(
  workdir: str | os.PathLike,
  out: str | os.PathLike,
  images: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
  count: int = 50,
) -> bool:
  """Writes which images to label next, and for which task: OUT/suggestions.csv and .png.

  Args:
    workdir: folder of the run, or its address on the Hub.
    out: folder for the results.
    images: photographs to choose from; None: those that the run's training images lack labels for.
    count: number of (image, task) pairs.

  Returns:
    Whether every file could be read; the others are named and skipped.

  Raises:
    UserError: no run, its data are gone, or nothing is left to label.

  Example:
    >>> dmtl_jax.suggest('runs/mine', 'next', count=20)
    True
  """
  bucket_copy.renew()
  photographs = None if images is None else _paths(images)
  return not suggest_job.run(_run_folder(workdir), _local_folder(out), photographs, count)


def publish(workdir: str | os.PathLike, to: str, license: str, private: bool = False, step: str | int = 'best') -> str:
  """Uploads a run to the Hugging Face Hub, in one commit: weights, config, scores, one picture and a card.

  Args:
    workdir: folder of the run.
    to: OWNER/RUN.
    license: what others may do with the weights, as the Hub writes it: 'apache-2.0', 'cc-by-4.0', ...
    private: whether only the owner may read it.
    step: checkpoint: 'best', 'latest' or a step.

  Returns:
    The address of its page.

  Raises:
    UserError: no run, scores of another checkpoint, no right to write there, or no network.

  Example:
    >>> dmtl_jax.publish('runs/scenes', 'me/scenes', 'apache-2.0')
    >>> predictor = dmtl_jax.load('hf://me/scenes')
  """
  return publish_job.run(os.fspath(workdir), to, license, private, str(step))


def app(workdir: str | os.PathLike) -> Any:
  """Makes the page that tries a run in a browser, as ``gradio.Blocks``; its ``launch()`` serves it.

  Only ``launch(share=True)`` gives it a public address, also on Colab.

  Args:
    workdir: folder of the run, or a name, as for `load`.

  Raises:
    UserError: no run there, or Gradio 6 is not installed.

  Example:
    >>> dmtl_jax.app('runs/scenes').launch()
  """
  return app_job.build(workdir)


def _paths(images: str | os.PathLike | Sequence[str | os.PathLike]) -> str | list[str]:
  return os.fspath(images) if isinstance(images, (str, os.PathLike)) else [os.fspath(path) for path in images]


def _run_folder(workdir: str | os.PathLike) -> str:
  """The folder of a run, downloaded from the Hub; raises UserError for one in a bucket: results would not get there."""
  check_local('workdir', os.fspath(workdir), ('hf',))
  return hub.local(workdir)


def _local_folder(out: Any) -> Any:
  """The path of a folder for results, or None; raises UserError for an address, which only the command line takes."""
  if out is not None:
    check_local('out', os.fspath(out))
  return out if out is None else os.fspath(out)


def _set_fields(config: ConfigDict, fields: dict[str, Any]) -> ConfigDict:
  """Sets fields by their dotted names, checks all values and locks the config."""
  check_config.check_flags([(field, None) for field in fields], config.to_dict())
  try:
    config.update_from_flattened_dict(fields)
  except (TypeError, ValueError) as error:
    raise UserError(f'config: {sanitize(str(error))}') from error
  check_config.check(config.to_dict())
  return config.lock()
