"""By which definitions scores were made, and whether those of a section compare."""

from dmtl_jax.inference.evaluation import size_text, VERSION

FIELDS = ('eval.protocol', 'eval.weights', 'eval.resolution', 'eval.boundary_side', 'metrics.version')


def scoring(run) -> dict:
  """{field: value} of what a run's scores go by; what metrics.json does not say is as the config has it."""
  asked, evaluated = run.config['eval'], bool(run.metrics.get('final'))
  protocol, weights = (run.metrics.get(name) or asked[name] for name in ('protocol', 'weights'))
  # Evaluations of before knew no other resolution.
  resolution = run.metrics.get('resolution') or ('input' if evaluated else asked['resolution'])
  side = run.metrics.get('boundary_side')
  side = 0 if resolution == 'input' else asked['boundary_side'] if side is None else side
  version = run.metrics.get('version') or 1 if evaluated else VERSION
  return dict(zip(FIELDS, (protocol, weights, resolution, side, version)))


def told(section) -> str:
  """A sentence on protocol, checkpoint, version and size of the scores; '' where there are none."""
  names = {}
  for entry in section.entries:
    if entry.scored:
      names.setdefault(_words(entry), []).append(entry.name)
  parts = [words + (f' ({", ".join(by)})' if len(names) > 1 else '') for words, by in names.items()]
  return f'Scored under {"; ".join(parts)}.' if parts else ''


def _words(entry) -> str:
  """How an entry was scored; of older definitions, metrics.json does not say which."""
  protocol, weights, resolution, side, version = scoring(entry.runs[0]).values()
  if version < VERSION:
    return 'older definitions'
  shrunk = any(run.metrics.get('boundary_shrunk') for run in entry.runs)
  limit = f' (boundaries at most {side} pixels a side)' if shrunk else ''
  return (
    f'protocol {protocol}, weights {weights}, version {version}, {size_text(resolution, entry.runs[0].size)}{limit}'
  )


def warning(section) -> str:
  """What to mind: scores of before, and of definitions that do not compare; '' if nothing."""
  scored = [entry for entry in section.entries if entry.scored]
  parts, older = [], [entry.name for entry in scored if scoring(entry.runs[0])['metrics.version'] < VERSION]
  if older:
    verb = 'were' if len(older) > 1 else 'was'
    parts.append(f'{", ".join(older)} {verb} scored under older definitions: run --mode=evaluate again.')
  if len({_definitions(entry.runs[0]) for entry in scored}) > 1:
    parts.append('Scores under different protocols, sizes or versions are not comparable.')
  return ' '.join(parts)


def _definitions(run) -> tuple:
  """What must be equal for scores to compare: all but which checkpoint was scored, and the size of the labels."""
  by = scoring(run)
  size = tuple(run.size) if by['eval.resolution'] == 'input' else ()
  return *(value for field, value in by.items() if field != 'eval.weights'), size
