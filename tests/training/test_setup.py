"""What a run starts from."""

import functools

import jax
import numpy as np

from dmtl_jax.training import setup
from tests import tiny


def test_first_weights_have_the_bits_of_an_optimised_program(short_encoder):
  config = tiny.tiny_config()
  config.data.size = (32, 32)
  config.train.update(batch=1, steps=1)
  training = setup.build_without_data(config, tiny.TASKS[:2])
  key = jax.random.key(3)
  variables = training.init(key).variables
  optimised = jax.jit(functools.partial(setup.init_variables, training.model, size=(32, 32)))(key)
  jax.tree.map(np.testing.assert_array_equal, variables, dict(optimised))
