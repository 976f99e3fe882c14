"""The card of a published run, README.md on the Hugging Face Hub: metadata in YAML, then text for people."""

from collections.abc import Sequence
import math
import re

from markupsafe import Markup
import yaml

from dmtl_jax.report import scoring
from dmtl_jax.report.render import render
from dmtl_jax.report.results import method_of, Run, sections
from dmtl_jax.report.table import markdown_table
from dmtl_jax.tasks import Task

PAPER = 'arxiv:2403.15389'
CONTENT = {'normals': 'unit vectors', 'depth': "distances, in the labels' unit"}  # by kind; others by what they hold


def render_card(run: Run, repo: str, license: str, step: int, has_panel: bool, is_calibrated: bool) -> str:
  """The text of README.md.

  Args:
    run: as it is published: without paths of this machine.
    repo: OWNER/RUN.
    license: as the Hub writes it, such as 'cc-by-4.0'.
    step: of the published weights.
    has_panel: whether panel.png is published too.
    is_calibrated: whether calibration.json is.
  """
  (section,) = sections([run])
  names = [escape(task.name) for task in run.tasks]
  config = run.config
  rows = score_rows(run)
  return render(
    'card.md',
    metadata=Markup(_metadata(run, repo, license)),
    title=escape(repo.partition('/')[2]),
    summary=Markup(f'A network that predicts {_join(names)} for every pixel of a photograph.'),
    tasks=[
      {'name': name, 'content': _content(task), 'classes': Markup(', ').join(map(escape, task.classes)) or '-'}
      for name, task in zip(names, run.tasks)
    ],
    has_panel=has_panel,
    method=escape(method_of(config).title),
    data=escape(section.title),
    height=run.size[0],
    width=run.size[1],
    backbone=config['model']['backbone'],
    start=Markup(f'started from {escape(config["init_from"])}') if config['init_from'] else 'from random weights',
    step=step,
    seed=config['seed'],
    scoring=scoring.describe(section),
    scores=Markup(markdown_table(['task', 'initial', 'final'], rows)) if rows else '',
    repo=repo,
    calibration=_describe_calibration(is_calibrated),
    has_classes=any(task.classes for task in run.tasks),
    has_depth=any(task.kind == 'depth' for task in run.tasks),
    license=license,
  )


def score_rows(run: Run) -> list[list[str]]:
  """['semseg, mIoU (higher is better)', initial, final], for each task with a score; '-' for an undefined one.

  Bold are the scores of the maps that predictions are made of.
  """
  rows = []
  for task in run.tasks:
    if math.isnan(run.prediction_score(task)):
      continue
    used = run.prediction_stage(task)
    cells = [f'{escape(task.name)}, {task.metric} ({"higher" if task.higher_is_better else "lower"} is better)']
    for stage in ('initial', 'final'):
      score = run.score(stage, task)
      text = '-' if math.isnan(score) else f'{score:.{task.digits}f}'
      cells.append(f'**{text}**' if stage == used else text)
    rows.append(cells)
  return rows


def escape(text: str) -> Markup:
  """Text of a user as plain text in Markdown."""
  return Markup(re.sub(r'([\\`*_\[\]<>#|~&])', r'\\\1', text))


def _join(names: Sequence[str]) -> str:
  return ', '.join(names[:-1]) + ' and ' + names[-1] if len(names) > 1 else names[0]


def _content(task: Task) -> str:
  if task.classes:
    return 'classes'
  return 'probabilities' if task.binary else CONTENT.get(task.kind, 'numbers')


def _describe_calibration(is_calibrated: bool) -> str:
  if is_calibrated:
    return 'Probabilities are calibrated on the validation images: they hold for images like those.'
  return 'Probabilities are not calibrated: the network is surer than it should be.'


def _metadata(run: Run, repo: str, license: str) -> str:
  """What the Hub reads of a model, with a result for each task in its model-index."""
  pipeline = _pipeline(run.tasks)
  results = [
    {
      'task': {'type': _pipeline([task]) or 'other', 'name': task.name},
      'dataset': {'type': re.sub(r'[^\w.-]+', '-', run.data), 'name': run.data, 'split': 'validation'},
      'metrics': [_metric(run, task)],
    }
    for task in run.tasks
    if not math.isnan(run.prediction_score(task))
  ]
  values = {
    'license': license,
    'library_name': 'dmtl_jax',
    **({'pipeline_tag': pipeline} if pipeline else {}),
    'tags': ['jax', 'multi-task-learning', 'dense-prediction', *sorted({task.kind for task in run.tasks}), PAPER],
    **({'model-index': [{'name': repo.partition('/')[2], 'results': results}]} if results else {}),
  }
  return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _metric(run: Run, task: Task) -> dict:
  """The score of the maps that predictions are made of; named where these are the initial ones."""
  name = {'name': f'{task.metric} of the initial maps'} if run.predicts_by_initial(task) else {}
  return {'type': task.metric, 'value': round(run.prediction_score(task), task.digits), **name}


def _pipeline(tasks: Sequence[Task]) -> str | None:
  """The Hub's name for what these tasks do; None where it has none."""
  if any(task.classes or task.binary for task in tasks):
    return 'image-segmentation'
  return 'depth-estimation' if any(task.kind == 'depth' for task in tasks) else None
