"""The report on probabilities: what stands in calibration.json, of the weights that were scored."""

import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import calibration
from dmtl_jax.jobs import report
from dmtl_jax.report import reliability
from dmtl_jax.report.results import read_run, sections
from dmtl_jax.tasks import make_task
from tests import calibrations
from tests.report_runs import DEPTH, find_section, make, SEMSEG, words, write_run

BOUNDARY = make_task('boundary', 'boundary')
TASKS = (SEMSEG, DEPTH, BOUNDARY)


def test_a_task_shows_its_error_its_diagram_and_its_masks(tmp_path):
  run = write_run(tmp_path / 'run', final=(50, 1, 60), tasks=TASKS)
  calibration.write(run, calibrations.calibration(TASKS))
  page, text, _ = make(tmp_path, run)
  section = find_section(page, reliability.TITLE)
  assert [heading.text for heading in section.iter('h4')] == ['Segmentation', 'Boundary']
  shown = words(section)
  for number in ('9.5 → 1.5%', '42.2 → 78.5', 'from 0.75 on'):
    assert number in shown
  raw, calibrated = [line.get('points').split() for line in section.iter('polyline')][:2]
  assert raw == ['67.0,139.5', '141.0,84.0']  # 0.25 -> 0.125 and 0.75 -> 0.5 in a square of 148 from (30, 158)
  assert calibrated == ['48.5,139.5', '104.0,84.0']
  assert '| boundary | DiffusionMTL (Prediction) | 9.5 | 1.5 | 42.2 | 78.5 | 0.750 |' in text
  assert '| semseg | DiffusionMTL (Prediction) | 9.5 | 1.5 | – | – | – |' in text


def test_other_weights_and_runs_without_a_calibration_show_nothing(tmp_path):
  run = write_run(tmp_path / 'run', final=(50, 1, 60), tasks=TASKS)
  assert not reliability.make_cards(sections([read_run(run)])[0])
  calibration.write(run, calibrations.calibration(TASKS, step=8))
  assert not reliability.make_cards(sections([read_run(run)])[0])
  page, text, _ = make(tmp_path, run)
  assert reliability.TITLE not in words(page) + text


def test_a_damaged_file_is_named(tmp_path):
  run = write_run(tmp_path / 'run', final=(50, 1, 60), tasks=TASKS)
  (run / 'calibration.json').write_text('{"tasks": 3}')
  with pytest.raises(UserError, match=r'calibration\.json: not what evaluation writes'):
    report.write([read_run(run)], tmp_path / 'report')
