"""Predictions of raw maps, against SciPy and NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dmtl_jax.tasks import make_task

LOGITS = 3 * np.random.default_rng(0).standard_normal((5, 6, 3)).astype(np.float32)


@pytest.mark.parametrize('dtype, error', [(jnp.float32, 1e-6), (jnp.bfloat16, 0.02)])
@pytest.mark.parametrize(
  'kind, channels, expected',
  [
    ('saliency', 2, special.softmax(LOGITS[..., :2], -1)[..., 1]),
    ('boundary', 1, special.expit(LOGITS[..., 0])),
    ('normals', 3, LOGITS / np.linalg.norm(LOGITS, axis=-1, keepdims=True)),
  ],
)
def test_probabilities_and_unit_vectors(kind, channels, expected, dtype, error):
  prediction = make_task(kind, kind).activate(jnp.asarray(LOGITS[..., :channels], dtype))
  assert prediction.dtype == jnp.float32
  np.testing.assert_allclose(prediction, expected, atol=error)


def test_the_normal_of_a_zero_vector_is_zero():
  assert not np.any(make_task('normals', 'normals').activate(jnp.zeros((2, 2, 3))))


def test_colours_of_normals():
  """(xyz + 1) / 2 of 255; a zero vector is hatched, so that it is grey; vectors a little too long have the last colour."""
  vectors = np.array([[[0, 0, 1], [1, -1.01, 0], [0, 0, 0]]], np.float32)
  picture = make_task('normals', 'normals').picture(vectors)
  np.testing.assert_allclose(picture[0, :2], [[127.5, 127.5, 255], [255, 0, 127.5]], atol=0.5)
  assert len(set(picture[0, 2])) == 1
