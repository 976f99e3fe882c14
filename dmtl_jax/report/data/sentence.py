"""The first sentence for the owner of the data: the scores, and the classes that are never found."""

from collections.abc import Sequence
import math

from dmtl_jax.basics.errors import join_names
from dmtl_jax.report.data.classes import class_rows, ClassRow, FOUND
from dmtl_jax.report.results import Run
from dmtl_jax.report.table import task_column
from dmtl_jax.tasks import Task

MOST_NAMED = 6  # classes in a sentence
MOST_SCORES = 3  # scores in a sentence that goes on to classes


def describe(run: Run) -> list[str]:
  """Sentences on an evaluated run, the first with the scores; [] for a run that was not evaluated."""
  if not run.evaluation:
    return []
  scored = [task for task in run.tasks if not math.isnan(run.score('final', task))]
  if not scored:
    return ['Nothing was scored, as no task appears in a validation label; add labels to the validation images.']
  scores = ', '.join(_score(run, task) for task in scored)
  counted = [task for task in scored if task.name in run.confusion]
  notes = [_classes(run, task, len(counted) > 1) for task in counted]
  missed = '; '.join(missed for missed, _ in notes if missed)
  found_all = [task for task, (missing, _) in zip(counted, notes) if not missing]
  if missed and len(scored) > MOST_SCORES:
    sentences = [f'{scores}.', f'{missed[0].upper()}{missed[1:]}.']
  else:
    sentences = [f'{"; ".join(filter(None, (scores, missed)))}.']
  sentences += [_weakest(run, task, len(counted) > 1) for task in found_all]
  sentences += [unlabelled for _, unlabelled in notes if unlabelled]
  if others := [t.name for t in scored if run.predicts_by_initial(t) and (t in counted or run.images)]:
    sentences.append(f'Classes and poorest images are those of the final maps, also for {join_names(others)}.')
  unscored = [task.name for task in run.tasks if task not in scored]
  if unscored:
    sentences.append(f'Not scored, as it appears in no validation label: {", ".join(unscored)}.')
  return sentences


def _score(run: Run, task: Task) -> str:
  """'saliency 81.90 maxF (initial maps)', of the maps that predictions are made of."""
  maps = ' (initial maps)' if run.predicts_by_initial(task) else ''
  return f'{task.name} {task_column(task).text(run.prediction_score(task))} {task.metric}{maps}'


def _classes(run: Run, task: Task, is_named: bool) -> tuple[str, str]:
  """What is never or hardly ever found, and a sentence on what is in no label; '' where there is none.

  Args:
    is_named: whether to name the task, as several have classes.
  """
  rows = _rows(run, task)
  never = [row for row in rows if row.found == 0]
  hardly = [row for row in rows if 0 < row.found < FOUND]
  parts = [f'{_subject(never)} never found'] if never else []
  if hardly:
    parts.append(
      f'{_names(hardly)} ({_shares(hardly)}) hardly ever' if never else f'{_subject(hardly)} hardly ever found'
    )
  missed = f'{f"of {task.name}, " if is_named and parts else ""}{", ".join(parts)}'
  unlabelled = [row for row in rows if not row.is_labelled]
  scope = f' for {task.name}' if is_named else ''
  return missed, f'Annotated in no validation label{scope}: {_names(unlabelled)}.' if unlabelled else ''


def _rows(run: Run, task: Task) -> list[ClassRow]:
  return class_rows(run.confusion[task.name], task.classes, run.scores('per_class', task))


def _weakest(run: Run, task: Task, is_named: bool) -> str:
  rows = [row for row in _rows(run, task) if row.is_labelled]
  weakest = min(rows, key=lambda row: row.iou)
  scope = f' of {task.name}' if is_named else ''
  return f'Every labelled class{scope} is found; the weakest is {weakest.name}, with an IoU of {weakest.iou:.1%}.'


def _names(rows: Sequence[ClassRow]) -> str:
  """'hair, dress and accessory'; the rarest are left out where they are many."""
  names = [row.name for row in sorted(rows, key=lambda row: -row.share)]
  if len(names) > MOST_NAMED:
    return join_names(names, MOST_NAMED)
  return ' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))


def _shares(rows: Sequence[ClassRow]) -> str:
  """'1.2 to 2%' or '1.2%', of all labelled pixels."""
  texts = [_percent(min(row.share for row in rows)), _percent(max(row.share for row in rows))]
  return texts[0] if texts[0] == texts[1] else f'{texts[0].removesuffix("%")} to {texts[1]}'


def _percent(share: float) -> str:
  return f'{100 * share:.2g}%' if share >= 0.0001 else 'under 0.01%'


def _subject(rows: Sequence[ClassRow]) -> str:
  """'hair and dress (1.2 to 2% of pixels) are'."""
  return f'{_names(rows)} ({_shares(rows)} of pixels) {"are" if len(rows) > 1 else "is"}'
