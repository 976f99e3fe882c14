"""The job `--mode=app`: a page in the browser to try a run on photographs and short videos."""

import importlib.metadata
import os
import signal
import tempfile
import threading

from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say


def build(workdir: str | os.PathLike):
  """The page of a run as `gradio.Blocks`, see `app_page.build`; raises UserError without Gradio or a run."""
  try:
    version = importlib.metadata.version('gradio')
  except importlib.metadata.PackageNotFoundError:
    version = 'none'
  if version.partition('.')[0] != '6':
    raise UserError(f"--mode=app: needs gradio 6, found {version}; run pip install -e '.[app]'")
  os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
  _bypass_proxies()
  from dmtl_jax.jobs import app_page

  return app_page.build(workdir)


def _bypass_proxies():
  """Lets Gradio ask its own page whether it is up, which it does through HTTP_PROXY otherwise, and then gives up."""
  direct = os.environ.get('no_proxy') or os.environ.get('NO_PROXY')
  for name in ('no_proxy', 'NO_PROXY'):
    os.environ[name] = f'{direct},localhost,127.0.0.1' if direct else 'localhost,127.0.0.1'


def run(workdir: str, port: int | None = None):
  """The job `--mode=app`: serves the page on this machine until Ctrl-C or SIGTERM; then removes what was uploaded.

  Args:
    port: default the first free one from 7860.

  Raises:
    UserError: as `build`, or the port is taken.
  """
  with tempfile.TemporaryDirectory(prefix='dmtl_app_') as folder:
    os.environ.setdefault('GRADIO_TEMP_DIR', folder)  # Gradio's own, /tmp/gradio, may be another user's
    page = build(workdir)
    try:
      _, address, _ = page.launch(server_port=port, prevent_thread_lock=True, quiet=True)
    except OSError as error:
      where = f'--port={port}' if port else '--port'
      raise UserError(f'{where}: the port cannot be used here; give another, or leave it out') from error
    say(f'{workdir}: open {address} in a browser of this machine; Ctrl-C ends the page')
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt
    try:
      threading.Event().wait()
    except KeyboardInterrupt:
      say('the page is closed')
    finally:
      signal.signal(signal.SIGTERM, before)
      page.close(verbose=False)
