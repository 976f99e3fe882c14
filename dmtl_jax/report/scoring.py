"""How scores were made, and whether those of a section are comparable."""

from dmtl_jax.inference.evaluation import size_text

FIELDS = ('eval.protocol', 'eval.weights', 'eval.resolution', 'eval.boundary_side')


def settings(run) -> dict:
  """{field: value} of how a run was scored or, without an evaluation, would be scored by its config."""
  config, done = run.config['eval'], run.evaluation
  if done:
    return dict(zip(FIELDS, (done.protocol, done.weights, done.resolution, done.boundary_side)))
  side = config['boundary_side'] if config['resolution'] == 'image' else 0
  return dict(zip(FIELDS, (config['protocol'], config['weights'], config['resolution'], side)))


def describe(section) -> str:
  """A sentence on protocol, checkpoint and size of the scores; '' if there are none."""
  names = {}
  for entry in section.evaluated:
    names.setdefault(_describe_entry(entry), []).append(entry.name)
  parts = [text + (f' ({", ".join(entries)})' if len(names) > 1 else '') for text, entries in names.items()]
  return f'Scored under {"; ".join(parts)}.' if parts else ''


def _describe_entry(entry) -> str:
  protocol, weights, resolution, side = settings(entry.runs[0]).values()
  is_shrunk = any(run.evaluation and run.evaluation.boundary_shrunk for run in entry.runs)
  size = size_text(resolution, entry.runs[0].size)
  limit = f' (boundaries at most {side} pixels a side)' if is_shrunk else ''
  return f'protocol {protocol}, weights {weights}, {size}{limit}'


def warn(section) -> str:
  """A sentence if the scores of a section are not comparable, else ''."""
  definitions = {_definitions(entry.runs[0]) for entry in section.evaluated}
  return 'Scores under different protocols or sizes are not comparable.' if len(definitions) > 1 else ''


def _definitions(run) -> tuple:
  """What must be equal for scores to be comparable: everything but the checkpoint, and the size of the labels."""
  protocol, _, resolution, side = settings(run).values()
  return protocol, resolution, side, tuple(run.size) if resolution == 'input' else ()
