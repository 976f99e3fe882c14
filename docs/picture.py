"""The README's picture, a validation image with its maps: python docs/picture.py RUN NUMBER docs/result.png"""

import sys

from PIL import Image

import dmtl_jax
from dmtl_jax.draw import panels


def main(run: str, number: str, out: str):
  predictor = dmtl_jax.load(run)
  example = dmtl_jax.open_data(predictor.config).val[int(number)]
  image = example['image']
  raw = predictor.raw(image)
  stages = {'Initial': 'initial', 'Denoised': 'final'}
  rows = [(title, raw.predictions(stage, image.shape[:2])) for title, stage in stages.items()]
  rows.append((panels.TRUTH, example['labels']))
  picture = Image.fromarray(panels.panel(image, predictor.tasks, rows, change=('Initial', 'Denoised')))
  picture.thumbnail((1240, picture.height))
  picture.quantize(128).save(out, optimize=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
