"""Legends of names that are long, or many."""

import numpy as np

from dmtl_jax.draw import legends


def test_a_legend_of_long_and_many_names_has_its_width():
  entries = [('x' * 5000, (1, 2, 3)), *((f'class {n}', (n, n, n)) for n in range(256))]
  picture = legends.Swatches(entries).draw(200)
  assert picture.shape[1] == 200
  assert picture.dtype == np.uint8
