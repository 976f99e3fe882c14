"""The job `--mode=evaluate`: scores a checkpoint on the whole validation split."""

from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib

import jax

from dmtl_jax.basics import atomic, files, sharding, stopping
from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.data import label_settings
from dmtl_jax.data import source as source_lib
from dmtl_jax.inference import calibration, calibration_fit, gallery
from dmtl_jax.inference.evaluation import delta_to_single, Evaluator, headline, size_text
from dmtl_jax.inference.forward import denoising_steps, STAGES
from dmtl_jax.inference.images import count_of
from dmtl_jax.models import build_model
from dmtl_jax.report.results import data_name
from dmtl_jax.runs import hub, run_tasks
from dmtl_jax.runs.checkpoints import load
from dmtl_jax.runs.workdir import read_config, read_tasks, write_config, write_tasks


def as_text(scores: dict, tasks) -> str:
  """Initial and final scores side by side, a line per task (the paper's Figure 8); '-' for undefined ones."""
  lines = [f'{"task":<12}{"metric":<10}{"initial":>10}{"final":>10}{"change":>10}']
  final = headline(scores['final'], tasks)
  initial = headline(scores['initial'], tasks) if 'initial' in scores else {}
  for task in tasks:
    metric = task.metric if task.metric in scores['final'][task.name] else task.quick_metric
    before, after = initial.get(task.name, math.nan), final[task.name]
    values = f'{_format(before, ".4g"):>10}{_format(after, ".4g"):>10}{_format(after - before, "+.3g"):>10}'
    lines.append(f'{task.name:<12}{metric:<10}{values}   ({"higher" if task.higher_is_better else "lower"} is better)')
  return '\n'.join(lines)


def _format(value: float, spec: str) -> str:
  return '-' if math.isnan(value) else format(value, spec)


def run(
  config, workdir: str, weights: str = '', predictions: bool = False, force: bool = False, out: str | None = None
) -> dict:
  """The job `--mode=evaluate`: scores a checkpoint and calibrates its probabilities.

  It writes W/metrics.json; per_image.csv, the scores of each image with `image_facts`; confusion.json, {task: pixel
  counts [label][prediction] of the final maps} of tasks with classes; calibration.json; and panels/. With another
  number of denoising steps S (config.eval.diffusion_steps) than the run was trained with, it only writes
  W/metrics_S.json. With protocol mtpsl it adds the scores of the last weights as 'last'. config.eval.stage becomes that
  of the run, in W/config.json, so that it holds for later evaluations too.

  Args:
    weights: checkpoint: 'best', 'latest' or a step; default config.eval.weights, as the benchmark does.
    predictions: also write every image's final maps to W/predictions (see `gallery.save_predictions`).
    force: allow classes renamed since training, see `run_tasks.match`.
    out: folder to write to; None: the workdir, and for a run of the Hub runs/OWNER--RUN. Another folder than the
      workdir also gets what a report needs: the run's config and tasks, and a calibration.json that names the tasks
      that the run predicts by initial maps, without the fit if the data are not those of the run.

  Returns:
    The content of metrics.json.

  Raises:
    UserError: no checkpoint there, data with other tasks, kinds or classes than the run's, or an `out` with another run
      or its scores.
  """
  folder = out or hub.folder_of_results(workdir)
  with stopping.report_interruption(lambda: f'the scores and panels in {folder} are as they were', folder):
    config = run_tasks.match(config, read_tasks(workdir), workdir, force)
    return _evaluate(config, pathlib.Path(workdir), pathlib.Path(folder), weights or config.eval.weights, predictions)


def _evaluate(config, path: pathlib.Path, folder: pathlib.Path, weights: str, predictions: bool) -> dict:
  if folder != path:
    _check_free(folder, path)
  source = without_learned(source_lib.open_source(config.data, 'val'), config, path)
  model = build_model(config, source.tasks)
  variables, step = load(path, weights, model, tuple(config.data.size))
  evaluator = Evaluator(model, source, sharding.make_mesh(), config.eval, config.data, config.seed)
  size = size_text(config.eval.resolution, config.data.size)
  images = count_of(len(source), 'image')
  say(f'evaluating step {step} ({weights}) of {path} on {images} {size}, protocol {config.eval.protocol}')
  save = functools.partial(gallery.save_predictions, folder / 'predictions', source.tasks)
  steps = config.eval.diffusion_steps
  is_standard = denoising_steps(model, steps) == denoising_steps(model, 0)
  is_own = is_own_data(config.data, path)
  stages = STAGES if is_standard else ()
  evidence = {stage: calibration_fit.Evidence(source.tasks, evaluator.count, config.seed) for stage in stages}
  scores, rows, confusion, better_initial = evaluator.run(variables, save if predictions else None, evidence)
  result = {
    **({} if folder == path else {'run': hub.name_of(path)}),
    'data': _scored_name(config.data, path),
    'protocol': config.eval.protocol,
    'resolution': config.eval.resolution,
    'weights': weights,
    'step': step,
    **scores,
    'delta_m': delta_to_single(scores['final'], config.eval.single_task, source.tasks),
  }
  if config.eval.protocol == 'mtpsl' and weights == 'best':
    result['last'] = _score_last(evaluator, path, result)
  if jax.process_index() == 0:
    before = _read_calibration(path)
    is_chosen = is_standard and is_own and folder == path
    if is_chosen:
      initial = _initial_tasks(config.eval.stage, scores, better_initial)
    else:
      initial = before.initial if (before.step, before.diffusion_steps) == (step, denoising_steps(model, 0)) else ()
    fitted = calibration_fit.fit(evidence, step, denoising_steps(model, 0), initial) if evidence else None
    with atomic.transaction():
      _write_run(path, folder, config.eval.stage if is_chosen else None)
      atomic.write_json(folder / ('metrics.json' if is_standard else f'metrics_{steps}.json'), result)
      if is_standard:
        atomic.write_csv(folder / 'per_image.csv', rows)
        atomic.write_atomic(folder / 'confusion.json', json.dumps({name: c.tolist() for name, c in confusion.items()}))
        if is_own:
          calibration.write(folder, fitted)
        elif folder != path:  # for a report: which maps the run's predictions are made of
          calibration.write(folder, dataclasses.replace(fitted, tasks={}))
        chosen = gallery.choose(rows, source.tasks, config.eval.panels)
        gallery.save_panels(folder / 'panels', source.tasks, chosen, functools.partial(evaluator.stages, variables))
    say(as_text(scores, source.tasks))
    if is_standard and folder == path and not is_own:
      say(
        f'\n{path}: metrics.json and panels are of {_name_data(config.data)} now, and calibration.json stays that of '
        f'{_name_data(read_config(path).data)}, which the run was trained on; --out=FOLDER keeps them apart'
      )
    elif fitted and fitted.tasks and is_own:
      say(f'\n{calibration_fit.as_text(fitted, source.tasks)}')
    if is_chosen:
      text = _describe_choice(config.eval.stage, fitted.initial, before.initial)
    else:
      text = _describe_unused(config, path)
    if text:
      say(f'\n{text}')
    if folder != path:
      say(f'\nscores: {folder}/metrics.json    pictures: {folder}/panels')
    if 'last' in result:
      say(f'\nthe last weights, step {result["last"]["step"]}:\n{as_text(result["last"], source.tasks)}')
  return result


def _check_free(folder: pathlib.Path, path: pathlib.Path):
  """Raises UserError if a run, or scores of another, are in a folder: a report would take all there for one run's."""
  fix = 'choose another folder with --out'
  if (folder / 'checkpoints').exists():
    raise UserError(f'{folder}: another run is there; {fix}')
  own = hub.name_of(path).partition('@')[0]  # without the commit
  for file in sorted(folder.glob('metrics*.json')):
    content = files.read_json(file, fix)
    name = str(content.get('run', '')).partition('@')[0] if isinstance(content, dict) else ''
    if not _is_same_path(name, own):
      raise UserError(f'{file}: scores of {sanitize(name) or "another run"} are there; {fix}')


def _write_run(path: pathlib.Path, folder: pathlib.Path, stage: str | None):
  """Writes config.json with this config.eval.stage (None: the run's own), and to another folder tasks.json too."""
  if folder == path and not (path / 'config.json').exists():
    return
  config = read_config(path)
  is_new = stage not in (None, config.eval.stage)
  if is_new:
    config.eval.stage = stage
  if is_new or folder != path:
    write_config(folder, config)
  if folder != path:
    write_tasks(folder, read_tasks(path))


def _read_calibration(path: pathlib.Path) -> calibration.Calibration:
  """The calibration of a run; none if its file is missing or cannot be read."""
  with contextlib.suppress(UserError):
    return calibration.read(path) or calibration.UNCALIBRATED
  return calibration.UNCALIBRATED


def _describe_choice(stage: str, initial: Sequence[str], before: Sequence[str]) -> str:
  """Says which tasks are predicted by initial maps, and which no longer are; '' if all were and are by final ones."""
  sentences = []
  if initial and stage == 'best':
    sentences.append(
      f'{join_names(initial)}: predicted by the initial maps from now on, which score higher by more than chance '
      'explains; --mode=evaluate with --config.eval.stage=final returns to the final ones.'
    )
  elif initial:
    sentences.append(f'{join_names(initial)}: predicted by the initial maps from now on (config.eval.stage=initial).')
  if returned := [name for name in before if name not in initial]:
    sentences.append(f'{join_names(returned)}: predicted by the final maps again (config.eval.stage={stage}).')
  if sentences and stage != 'best':
    sentences.append('Later evaluations keep this; --config.eval.stage=best lets them choose by the scores.')
  return ' '.join(sentences)


def _describe_unused(config, path: pathlib.Path) -> str:
  """Says that config.eval.stage does not become the run's; '' if it is already, or is 'best'."""
  stage = config.eval.stage
  if stage == 'best' or not (path / 'config.json').exists() or stage == read_config(path).eval.stage:
    return ''
  return (
    f'config.eval.stage={stage} is not kept: what predictions of {hub.name_of(path)} are made of is decided by '
    'evaluations that write there, on the data that the run was trained on and with its number of denoising steps'
  )


def _initial_tasks(stage: str, scores: dict, better: Sequence[str]) -> Sequence[str]:
  """Names of the tasks to predict by their initial maps, for config.eval.stage."""
  return {'final': (), 'initial': tuple(scores.get('initial', ())), 'best': better}[stage]


def is_own_data(data_config, path: pathlib.Path) -> bool:
  """Whether these are the data that the run in `path` was trained on."""
  if not (path / 'config.json').exists():
    return True
  own = read_config(path).data
  is_same = all(own.get(field) == data_config.get(field) for field in ('name', 'holdout_fraction'))
  return is_same and all(_is_same_path(own.get(field), data_config.get(field)) for field in ('path', 'dir'))


def _is_same_path(one: str | None, other: str | None) -> bool:
  return one == other or bool(one and other and os.path.realpath(one) == os.path.realpath(other))


def _scored_name(data_config, path: pathlib.Path) -> str:
  """Name of the scored data; that of the run's own only for these, lest a report takes both for two seeds."""
  name = data_name(data_config)
  if not (path / 'config.json').exists():
    return name
  own = read_config(path).data
  is_elsewhere = name == data_name(own) and not _is_same_path(own.get('path'), data_config.get('path'))
  return f'{name} at another path' if is_elsewhere else name


def _name_data(data_config) -> str:
  return data_config.get('path') or data_config.name


def without_learned(source, config, path: pathlib.Path):
  """Leaves out held-out images that the run learned from: images added since may have changed which are held out."""
  labels = path / 'labels.json'
  if not source_lib.holdout_fraction(config.data) or not labels.exists():
    return source
  learned_from = read_config(path).data
  if any(learned_from.get(field) != config.data.get(field) for field in ('name', 'path')):
    return source  # other images, which may have the same names
  learned = label_settings.images(labels)
  kept = [i for i, id in enumerate(source.ids) if id not in learned]
  if len(kept) == len(source):
    return source
  if not kept:
    raise UserError(f'{labels}: the run learned from every image that is held out now; train it anew')
  lost = len(source) - len(kept)
  say(f'left out: {lost} of {count_of(len(source), "held-out image")}, from which the run learned ({labels})')
  return source.subset(kept)


def _score_last(evaluator: Evaluator, path: pathlib.Path, best: dict) -> dict:
  """Scores of a run's last weights; those of the best, if they are the same weights, and otherwise a new evaluation.

  MTPSL's code reports its best epoch, chosen by the scores on these very images; the last weights are not chosen so.

  Args:
    best: the content of metrics.json for the best weights.

  Returns:
    {'step', 'final', 'initial' (where there is one), 'delta_m'}.
  """
  variables, step = load(path, 'latest', evaluator.model, tuple(evaluator.data_config.size))
  if step == best['step']:
    return {name: best[name] for name in ('step', 'final', 'initial', 'delta_m') if name in best}
  say(f'evaluating step {step} (the last)')
  scores = evaluator.run(variables).scores
  stages = {name: scores[name] for name in ('final', 'initial') if name in scores}
  delta_m = delta_to_single(scores['final'], evaluator.eval_config.single_task, evaluator.tasks)
  return {'step': step, **stages, 'delta_m': delta_m}
