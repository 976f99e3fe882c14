"""By which definitions scores were made, and whether those of a section compare."""

from dmtl_jax.inference.evaluation import VERSION

FIELDS = ('eval.protocol', 'eval.weights', 'metrics.version')


def scoring(run) -> dict:
  """{field: value} of what a run's scores go by; what metrics.json does not say is as the config has it."""
  known = [run.metrics.get(name) or run.config['eval'][name] for name in ('protocol', 'weights')]
  version = run.metrics.get('version') or 1 if run.metrics.get('final') else VERSION
  return dict(zip(FIELDS, (*known, version)))


def told(section) -> str:
  """A sentence on protocol, checkpoint and version of the scores; '' where there are none."""
  names = {}
  for entry in section.entries:
    protocol, weights, version = scoring(entry.runs[0]).values()
    if entry.scored:  # of older definitions, metrics.json does not say which
      words = (
        f'protocol {protocol}, weights {weights}, version {version}' if version >= VERSION else 'older definitions'
      )
      names.setdefault(words, []).append(entry.name)
  parts = [words + (f' ({", ".join(by)})' if len(names) > 1 else '') for words, by in names.items()]
  return f'Scored under {"; ".join(parts)}.' if parts else ''


def warning(section) -> str:
  """What to mind: scores of before, and of definitions that do not compare; '' if nothing."""
  scored = [entry for entry in section.entries if entry.scored]
  parts, older = [], [entry.name for entry in scored if scoring(entry.runs[0])['metrics.version'] < VERSION]
  if older:
    verb = 'were' if len(older) > 1 else 'was'
    parts.append(f'{", ".join(older)} {verb} scored under older definitions: run --mode=evaluate again.')
  by = [scoring(entry.runs[0]) for entry in scored]
  if len({(each['eval.protocol'], each['metrics.version']) for each in by}) > 1:
    parts.append('Scores under different protocols or versions are not comparable.')
  return ' '.join(parts)
