"""The README's picture, three tasks of one validation image: python docs/picture.py RUN docs/result.png

Of the images that show a whole figure it takes the one with the median gain, and prints the gains for the caption.
The gain of an image is the share of a task's error that denoising removes, its mean over all tasks.
"""

import sys

import numpy as np
from PIL import Image, ImageDraw

import dmtl_jax
from dmtl_jax.draw import panels
from dmtl_jax.draw.colors import INK, PAPER
from dmtl_jax.draw.legends import font

SHOWN = ('semseg', 'parsing', 'normals')
STAGES = {'Initial': 'initial', 'Denoised': 'final'}
TILE = (340, 255)
GAP = 12
LETTERS = 40  # pixels; 10 on a phone, where the picture is a quarter as large
SMALLEST = 0.06  # share of the image that a figure must fill


def main(run: str, out: str):
  predictor = dmtl_jax.load(run)
  predictor.config.data.train_count = 1  # validation images are the same for any
  examples = list(dmtl_jax.open_data(predictor.config).val)
  gains = np.array([_gain(predictor, example) for example in examples])
  whole = np.flatnonzero([_shows_whole_figure(example['labels']['parsing'][..., 0]) for example in examples])
  index = whole[np.argsort(gains[whole])[len(whole) // 2]]
  print(f'{(gains > 0).sum()} of {len(gains)} images gain, at the median {np.median(gains):.1%}')
  print(f'{len(whole)} show a whole figure; number {index} has their median gain, {gains[index]:.1%}')
  _draw(predictor, examples[index]).quantize(128).save(out, optimize=True)


def _predictions(predictor, image) -> dict:
  raw = predictor.raw(image)
  return {title: raw.predictions(stage, image.shape[:2]) for title, stage in STAGES.items()}


def _gain(predictor, example) -> float:
  before, after = _predictions(predictor, example['image']).values()
  ratios = []
  for task in predictor.tasks:
    label = example['labels'][task.name]
    if (valid := task.valid(label)).any():
      errors = [task.pixel_error(maps[task.name], label)[valid].mean() for maps in (before, after)]
      ratios.append(errors[1] / max(errors[0], 1e-9))
  return 1 - float(np.mean(ratios))


def _shows_whole_figure(parts: np.ndarray) -> bool:
  """Whether all six parts are in view and none touches the margin."""
  border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
  figure = (parts > 0) & (parts < 255)
  return not border.any() and figure.mean() > SMALLEST and len(np.unique(parts)) == 7


def _draw(predictor, example) -> Image.Image:
  image, labels = example['image'], example['labels']
  rows = _predictions(predictor, image) | {panels.TRUTH: labels}
  tasks = [next(task for task in predictor.tasks if task.name == name) for name in SHOWN]
  left, top = LETTERS + 2 * GAP, LETTERS + 2 * GAP
  width, height = TILE
  sheet = Image.new('RGB', (left + 4 * (width + GAP), top + 3 * (height + GAP)), PAPER)
  pen = ImageDraw.Draw(sheet)
  for column, title in enumerate(['Input', *(task.heading for task in tasks)]):
    at = (left + column * (width + GAP) + width / 2, top / 2)
    pen.text(at, title, INK, font(LETTERS), anchor='mm')
  legends = [task.legend(width, present=_classes(labels[task.name]), scale=2.1) for task in tasks[:2]]
  for row, (title, maps) in enumerate(rows.items()):
    y = top + row * (height + GAP)
    turned = Image.new('RGB', (height, left), PAPER)
    ImageDraw.Draw(turned).text((height / 2, left / 2), title, INK, font(LETTERS), anchor='mm')
    sheet.paste(turned.transpose(Image.Transpose.ROTATE_90), (0, y))
    first = Image.fromarray(legends[row - 1]) if row else Image.fromarray(image).resize(TILE)
    sheet.paste(first.crop((0, 0, width, min(first.height, height))), (left, y))
    for column, task in enumerate(tasks, 1):
      picture = Image.fromarray(task.picture(np.asarray(maps[task.name])))
      smooth = Image.Resampling.NEAREST if task.classes else Image.Resampling.BILINEAR
      sheet.paste(picture.resize(TILE, smooth), (left + column * (width + GAP), y))
  return sheet


def _classes(label) -> list[int]:
  return [int(i) for i in np.unique(label) if i < 255]


if __name__ == '__main__':
  main(*sys.argv[1:])
