"""A tracker that keeps what it is sent."""


class Fake:
  """A client that keeps what it gets; raises at the call `fails`."""

  opened: list['Fake'] = []
  fails = ''

  def __init__(self, workdir, name, id, config):
    self._call('open')
    self.id = id or name
    self.config = config
    self.rows = []
    self.calls = []
    Fake.opened.append(self)

  def _call(self, name):
    if Fake.fails == name:
      raise SystemExit('no\nroute') if name == 'open' else OSError('no\nroute')

  def scalars(self, step, values):
    self._call('scalars')
    self.rows.append({'step': step} | values)

  def image(self, step, name, picture):
    self._call('image')
    self.calls.append((step, name, picture))

  def finish(self, step, scores, page):
    self._call('finish')
    self.calls.append((step, scores, page))

  def close(self, outcome):
    self._call('close')
    self.calls.append(outcome)
