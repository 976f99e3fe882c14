"""The README's picture, a validation image with its maps: python docs/picture.py RUN NUMBER docs/result.png"""

import sys

import dmtl_jax
from dmtl_jax.data import source
from dmtl_jax.draw import panels
from dmtl_jax.draw.png import small


def main(run: str, number: str, out: str):
  predictor = dmtl_jax.load(run)
  example = source.open_source(predictor.config.data, 'val')[int(number)]
  image = example['image']
  raw = predictor.raw(image)
  stages = {'Initial': 'initial', 'Denoised': 'final'}
  rows = [(title, raw.predictions(stage, image.shape[:2])) for title, stage in stages.items()]
  rows.append((panels.TRUTH, example['labels']))
  picture = panels.panel(image, predictor.tasks, rows, change=('Initial', 'Denoised'))
  small(picture, 1240).save(out, optimize=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
