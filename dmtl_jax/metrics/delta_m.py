"""Delta_m, which compares runs over several tasks (docs/paper.md, Metrics)."""

from collections.abc import Sequence

import numpy as np

from dmtl_jax.basics.errors import UserError


def delta_m(scores: dict[str, float], single: dict[str, float], tasks: Sequence) -> float:
  """Mean over tasks of the relative gain over the single-task scores, in %; positive is better.

  Args:
    scores, single: {task: headline score}.

  Raises:
    UserError: a task has no single-task score, or one of 0.
  """
  missing = [task.name for task in tasks if not single.get(task.name)]
  if missing:
    raise UserError(f'Delta_m needs a single-task score other than 0 for {", ".join(missing)}')
  gains = [(1 if t.higher_is_better else -1) * (scores[t.name] - single[t.name]) / single[t.name] for t in tasks]
  return 100 * float(np.mean(gains))
