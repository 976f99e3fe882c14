"""Learning curves."""

import json

from dmtl_jax.runs.log import Log


def test_a_score_without_a_value_is_no_point_and_no_warning(tmp_path, caplog):
  log = Log(tmp_path, 0, 0)
  log.scalars(1, {'eval/final/semseg/mIoU': 50.0, 'eval/final/boundary/tolF': float('nan')})
  log.close()
  assert not caplog.records
  events = b''.join(path.read_bytes() for path in (tmp_path / 'tensorboard').iterdir())
  assert b'semseg/mIoU' in events
  assert b'boundary/tolF' not in events
  row = json.loads((tmp_path / 'log.jsonl').read_text())
  assert row == {'step': 1, 'eval/final/semseg/mIoU': 50.0, 'eval/final/boundary/tolF': None}
