"""How scores were made, and whether those of a section compare."""

from dmtl_jax.inference.evaluation import size_text

FIELDS = ('eval.protocol', 'eval.weights', 'eval.resolution', 'eval.boundary_side')


def scoring(run) -> dict:
  """{field: value} of how a run was scored; of what its config asks for where it was not evaluated."""
  scored = run.config['eval'] | run.metrics
  side = 0 if scored['resolution'] == 'input' else scored['boundary_side']
  return dict(zip(FIELDS, (scored['protocol'], scored['weights'], scored['resolution'], side)))


def told(section) -> str:
  """A sentence on protocol, checkpoint and size of the scores; '' where there are none."""
  names = {}
  for entry in section.entries:
    if entry.scored:
      names.setdefault(_words(entry), []).append(entry.name)
  parts = [words + (f' ({", ".join(by)})' if len(names) > 1 else '') for words, by in names.items()]
  return f'Scored under {"; ".join(parts)}.' if parts else ''


def _words(entry) -> str:
  """How an entry was scored."""
  protocol, weights, resolution, side = scoring(entry.runs[0]).values()
  shrunk = any(run.metrics.get('boundary_shrunk') for run in entry.runs)
  limit = f' (boundaries at most {side} pixels a side)' if shrunk else ''
  return f'protocol {protocol}, weights {weights}, {size_text(resolution, entry.runs[0].size)}{limit}'


def warning(section) -> str:
  """A sentence where scores do not compare; else ''."""
  definitions = {_definitions(entry.runs[0]) for entry in section.entries if entry.scored}
  return 'Scores under different protocols or sizes are not comparable.' if len(definitions) > 1 else ''


def _definitions(run) -> tuple:
  """What must be equal for scores to compare: all but which checkpoint was scored, and the size of the labels."""
  by = scoring(run)
  size = tuple(run.size) if by['eval.resolution'] == 'input' else ()
  return *(value for field, value in by.items() if field != 'eval.weights'), size
