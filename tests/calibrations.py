"""A calibration for the tasks of tests, written by hand."""

from dmtl_jax.inference.calibration import Bin, Calibration, Reliability, TaskCalibration

RAW = Reliability(9.5, 0.5, (Bin(0.25, 0.125, 0.75), Bin(0.75, 0.5, 0.25)))
CALIBRATED = Reliability(1.5, 0.25, (Bin(0.125, 0.125, 0.75), Bin(0.5, 0.5, 0.25)))


def calibration(tasks, step: int = 7, diffusion_steps: int = 2, initial: tuple[str, ...] = (), **fields) -> Calibration:
  """Temperature 2 and biases 0.5, 1, 1.5, ... for every task with probabilities; `fields` replace those of each task."""
  fitted = {task.name: _fitted(task, fields) for task in tasks if task.has_probabilities}
  return Calibration(step, diffusion_steps, fitted, initial)


def _fitted(task, fields: dict) -> TaskCalibration:
  values = dict(
    kind=task.kind,
    temperature=2.0,
    bias=tuple(0.5 * (i + 1) for i in range(len(task.classes) or 1)),
    threshold=0.75 if task.binary else None,
    f=78.5 if task.binary else None,
    f_at_half=42.25 if task.binary else None,
    pixels=1000,
    images=4,
    held_out=True,
    raw=RAW,
    calibrated=CALIBRATED,
  )
  return TaskCalibration(**values | fields)
