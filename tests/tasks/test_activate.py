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
