"""Orbax's next API, which becomes its only one with version 1.0, reads the checkpoints of today's."""

import json

import jax
import numpy as np
import orbax.checkpoint
import pytest

from dmtl_jax.runs.checkpoints import FORMAT
from dmtl_jax.runs.workdir import find_run


def test_it_reads_variables_and_notes():
  ocp = pytest.importorskip('orbax.checkpoint.experimental.v1', reason='this Orbax does not have its V1 API')
  trained = find_run('scenes')
  (path,) = (trained / 'checkpoints').iterdir()
  saved = ocp.load_checkpointables(path)
  assert saved['meta']['format'] == FORMAT
  assert saved['meta']['config'] == json.loads((trained / 'config.json').read_text())
  today = orbax.checkpoint.StandardCheckpointer().restore((path / 'variables').resolve())
  jax.tree.map(np.testing.assert_array_equal, saved['variables'], today)
