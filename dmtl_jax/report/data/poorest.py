"""The poorest images of each task, and what sets them apart: the class missed most, light, blur, size, few labels."""

import bisect
import collections
from collections.abc import Sequence
import dataclasses
import math
import statistics
from typing import NamedTuple

from dmtl_jax.report.pictures import Album
from dmtl_jax.report.results import Run
from dmtl_jax.report.table import task_column
from dmtl_jax.tasks import Task

TENTH = 0.1  # share of the images that count as unusual in a way
QUARTER = 0.25  # of the median, by which they must also differ from it
FEWEST = 10  # images, below which a tenth is no image
OFTEN = 3  # times as often as among all images, from which a trait is worth a sentence
SIDE = 400  # pixels of an embedded strip's longer side


class PoorImage(NamedTuple):
  """One image: its score, a picture (a data URI; '' if there is none) and why it may be poor, in words."""

  id: str
  score: str
  picture: str
  reasons: list[str]


class Poorest(NamedTuple):
  """The poorest images of a task, poorest first, and sentences on what they have in common."""

  task: Task
  images: list[PoorImage]
  patterns: list[str]


@dataclasses.dataclass(frozen=True)
class Trait:
  """A way in which an image may be unusual: among the tenth with the lowest, or highest, values of a column."""

  name: str
  column: str
  is_high: bool = False

  def text(self, value: float) -> str:
    """'among the darkest (brightness 31 of 255)'."""
    match self.column:
      case 'brightness':
        return f'among the {self.name} (brightness {value:.0f} of 255)'
      case 'pixels':
        return f'among the {self.name} ({value / 1e6:.2g} megapixels)'
      case 'sharpness':
        return f'among the {self.name}'
    return f'among the {self.name} ({value:.2g}% of its pixels)'


def poorest_images(run: Run, task: Task, album: Album) -> Poorest | None:
  """The images that evaluation drew as the poorest of a task; None if there are none."""
  drawn = [image for image in run.images if task.name in image.tasks and 'poor' in image.tasks[task.name].why]
  drawn = [image for image in drawn if 'final' in image.tasks[task.name].scores]
  drawn.sort(key=lambda image: image.tasks[task.name].scores['final'], reverse=not task.higher_is_better)
  if not drawn:
    return None
  rows = {row.get('id', ''): row for row in run.image_rows}
  unusual = Unusual(
    [row for row in run.image_rows if number(row, f'{task.name}/{task.metric} final') is not None], task
  )
  images = []
  traits = collections.Counter()
  missed = collections.Counter()
  for image in drawn:
    row = rows.get(image.id, {})
    found = unusual.traits(row)
    traits.update(list(found))
    missed.update(filter(None, [row.get(f'{task.name}/most missed')]))
    strip = image.tasks[task.name].files.get('strip')
    picture = album.embed(strip, SIDE) if strip and album.left >= 0 else ''
    reasons = [*_mistake(row, task), *(trait.text(value) for trait, value in found.items())]
    score = f'{task.metric} {task_column(task).text(image.tasks[task.name].scores["final"])}'
    images.append(PoorImage(image.id, score, picture, reasons))
  return Poorest(task, images, [*_common(missed, len(images)), *unusual.patterns(traits, len(images))])


class Unusual:
  """Which images of an evaluation are unusual, and how.

  Args:
    rows: of per_image.csv, of the images that were scored.
  """

  def __init__(self, rows: Sequence[dict[str, str]], task: Task):
    traits = (
      Trait('darkest', 'brightness'),
      Trait('brightest', 'brightness', is_high=True),
      Trait('most blurred', 'sharpness'),
      Trait('smallest', 'pixels'),
      Trait('least labelled', f'{task.name}/labelled %'),
    )
    self._values = {}  # {trait: sorted values, negative where high ones are unusual}
    for trait in traits:
      values = [value for row in rows if (value := _value(row, trait)) is not None]
      if len(values) >= FEWEST:
        self._values[trait] = sorted(values)

  def traits(self, row: dict[str, str]) -> dict[Trait, float]:
    """{trait: value} of the traits that an image has.

    At most a TENTH of all images have its value, or one beyond it, and it differs from the median by a QUARTER of that.
    """
    found = {}
    for trait, values in self._values.items():
      value = _value(row, trait)
      if value is None:
        continue
      median = statistics.median(values)
      if bisect.bisect_right(values, value) <= TENTH * len(values) and median - value >= QUARTER * abs(median):
        found[trait] = abs(value)
    return found

  def patterns(self, counts: collections.Counter, images: int) -> list[str]:
    """Sentences on traits that are OFTEN times as frequent among some images as a tenth."""
    expected = TENTH * images
    often = [(trait, n) for trait, n in counts.most_common() if n >= max(OFTEN * expected, 3)]
    return [
      f'{n} of {images} are among the {trait.name} tenth of all, where {expected:.2g} would be chance.'
      for trait, n in often
    ]


def _value(row: dict[str, str], trait: Trait) -> float | None:
  """The value of a trait's column; the lower, the more unusual."""
  if trait.column == 'pixels':
    height, width = number(row, 'height'), number(row, 'width')
    value = None if height is None or width is None else height * width
  else:
    value = number(row, trait.column)
  return -value if value is not None and trait.is_high else value


def number(row: dict[str, str], column: str) -> float | None:
  """The number in a column; None if there is none."""
  try:
    value = float(row[column])
  except (KeyError, TypeError, ValueError):
    return None
  return value if math.isfinite(value) else None


def _mistake(row: dict[str, str], task: Task) -> list[str]:
  """'car: 62% missed, mostly taken for road', for kinds of which classes are counted."""
  missed, other, share = (row.get(f'{task.name}/{name}') for name in ('most missed', 'taken for', 'missed %'))
  percent = number(row, f'{task.name}/missed %')
  return (
    [f'{missed}: {percent:.0f}% missed, mostly taken for {other}'] if missed and other and share and percent else []
  )


def _common(missed: collections.Counter, images: int) -> list[str]:
  """A sentence on the class that is missed most in at least a third of the images."""
  if not missed:
    return []
  name, count = missed.most_common(1)[0]
  return [f'In {count} of {images}, {name} is missed most.'] if 3 * count >= images and count > 1 else []
