"""What all tests share: one compilation cache, the order of the files, fixtures."""

import os
import shutil
import signal
import tempfile

os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(tempfile.gettempdir(), 'dmtl_jax_test_cache'))
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
# Test shapes are tiny: compiling fast matters more than running fast. XLA's older emitters take half of the time for a
# train step (as an extra option: a version that does not know it says nothing), and code that is not split for several
# threads an eighth less.
XLA_FLAGS = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
XLA_FLAGS += ' --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters'
XLA_FLAGS += ' --xla_cpu_parallel_codegen_split_count=1'
os.environ.setdefault('XLA_FLAGS', XLA_FLAGS)

from absl import flags  # noqa: E402
from huggingface_hub import constants  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from dmtl_jax.basics import compilation  # noqa: E402
from dmtl_jax.datasets import raw  # noqa: E402
from dmtl_jax.inference import forward, prediction  # noqa: E402
from dmtl_jax.jobs import convert  # noqa: E402
from dmtl_jax.models.parts import encoder  # noqa: E402
from tests import raw_trees  # noqa: E402
from tests.hub_server import Server  # noqa: E402
from tests.predicting import SAMPLES  # noqa: E402
from tests.tiny import random_variables, SIZE, TASKS, Tiny  # noqa: E402

compilation.collect_rarely()

# The longest files, which go first: in the end no worker waits for the other one's.
LONGEST = 'distributed train methods notebooks faults parity summary benchmarks model memory loss_scale'.split()


def pytest_collection_modifyitems(items):
  places = {f'test_{name}.py': place for place, name in enumerate(LONGEST)}
  items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope='session', autouse=True)
def user_cache(tmp_path_factory):
  """What would go to the user's cache folder."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    yield


@pytest.fixture(scope='module')
def short_encoder():
  """Two stages of one block, to compile in less time."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(encoder.STAGES, 'resnet18', (1, 1))
    yield


@pytest.fixture(scope='module')
def tiny_run(tmp_path_factory, short_encoder):
  """The workdir of an untrained run of Tiny with a short encoder, at step 7."""
  tiny = Tiny('method=prediction')
  tiny.config.data.size = SIZE
  variables = jax.tree.map(np.float32, random_variables(tiny.model, seed=2))  # of seed 0 all is one class
  return convert.write_run(tmp_path_factory.mktemp('run'), tiny.config, TASKS, variables, 7)


@pytest.fixture(scope='module')
def predictor(tiny_run):
  """That of `tiny_run`, ready to draw several samples."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(forward, 'DRAWS', 2)  # so that three draws take two rounds, with one too many
    predictor = prediction.load(tiny_run)
    predictor.check(SAMPLES, None)
    yield predictor


@pytest.fixture
def hub_server(tmp_path, monkeypatch):
  """A Hub on this machine in the place of huggingface.co, with a cache of its own and nobody logged in."""
  server = Server()
  template = server.url + '/{repo_id}/resolve/{revision}/{filename}'
  for name, value in (
    ('ENDPOINT', server.url),
    ('HUGGINGFACE_CO_URL_TEMPLATE', template),
    ('HF_HUB_CACHE', str(tmp_path / 'cache')),
    ('HF_HUB_DISABLE_XET', True),  # the large files' newer protocol, which only the true Hub speaks
    ('HF_TOKEN_PATH', str(tmp_path / 'no_token')),
  ):
    monkeypatch.setattr(constants, name, value, raising=False)
  monkeypatch.delenv('HF_TOKEN', raising=False)
  yield server
  server.stop()


@pytest.fixture
def fresh_flags(monkeypatch):
  """Sets the command line's flags back to before the first parse; at the end they are as they were."""
  parsed = flags.FLAGS.is_parsed()

  def reset():
    for name in [name for name in flags.FLAGS if name.startswith('config.')]:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()

  yield reset
  reset()
  if parsed:
    flags.FLAGS.mark_as_parsed()


@pytest.fixture
def ctrl_c():
  """Ctrl-C raises KeyboardInterrupt: a suite that a shell runs in the background is born with it ignored."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  after = signal.signal(signal.SIGINT, before)
  assert after == signal.default_int_handler


@pytest.fixture
def no_downloads(monkeypatch):
  monkeypatch.setattr(raw.RawBuilder, 'url_infos', {})


@pytest.fixture
def pascal_raw(tmp_path):
  return raw_trees.pascal_tree(tmp_path)


@pytest.fixture
def nyud_raw(tmp_path):
  return raw_trees.nyud_tree(tmp_path)


@pytest.fixture(scope='module')
def browser():
  """Debian's Chromium without a window, driven by Playwright."""
  playwright = pytest.importorskip('playwright.sync_api', reason='needs a browser driver: pip install playwright')
  program = shutil.which('chromium')
  if not program:
    pytest.skip('needs a browser: apt-get install chromium')
  flags = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking'
  with playwright.sync_playwright() as driver:
    chromium = driver.chromium.launch(
      executable_path=program, args=[*flags.split(), '--disable-component-update', '--disable-sync']
    )
    yield chromium
    chromium.close()
