"""Shared by all tests: one compilation cache, tasks, and a tiny DiffusionMTL."""

import os
import pathlib
import tempfile
import zlib

CACHE = os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(tempfile.gettempdir(), 'dmtl_jax_test_cache'))
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
# Test shapes are tiny: compiling fast matters more than running fast. XLA's older emitters take half of the time for a
# train step (as an extra option: a version that does not know it says nothing), and code that is not split for several
# threads an eighth less.
XLA_FLAGS = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
XLA_FLAGS += ' --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters'
XLA_FLAGS += ' --xla_cpu_parallel_codegen_split_count=1'
os.environ.setdefault('XLA_FLAGS', XLA_FLAGS)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import raw_trees  # noqa: E402

from dmtl_jax.basics import compilation  # noqa: E402
from dmtl_jax.configs import common  # noqa: E402
from dmtl_jax.datasets import raw  # noqa: E402
from dmtl_jax.jobs import convert  # noqa: E402
from dmtl_jax.models import build_model  # noqa: E402
from dmtl_jax.models.inputs import init_variables, model_inputs  # noqa: E402
from dmtl_jax.models.parts import encoder  # noqa: E402
from dmtl_jax.tasks import make_task  # noqa: E402

compilation.collect_rarely()

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared'
TASKS = (
  make_task('semseg', 'semseg', ('sky', 'road', 'car', 'tree')),
  make_task('parsing', 'parsing', ('background', 'head', 'torso')),
  make_task('saliency', 'saliency'),
  make_task('normals', 'normals'),
  make_task('boundary', 'boundary'),
  make_task('depth', 'depth'),
)
SIZE = (64, 96)
# The longest files, which go first: in the end no worker waits for the other one's.
LONGEST = 'distributed train methods notebooks faults parity summary benchmarks model memory loss_scale'.split()


def pytest_collection_modifyitems(items):
  places = {f'test_{name}.py': place for place, name in enumerate(LONGEST)}
  items.sort(key=lambda item: places.get(item.path.name, len(places)))


def shared(name: str) -> pathlib.Path:
  """A path below ../shared; skips the test where it is absent."""
  path = SHARED / name
  if not path.exists():
    pytest.skip(f'reference data {path} is not on this machine')
  return path


def tiny_config(arg: str = ''):
  """A config whose network compiles in seconds."""
  config = common.base(arg)
  config.model.update(width=8, channels=16, depth=1, decoder_blocks=1)
  return config


def random_labels(rng: np.random.Generator, batch: int, size=SIZE) -> dict[str, np.ndarray]:
  """Valid labels with about a tenth of the pixels unlabelled."""
  hole = rng.random((batch, *size, 1)) < 0.1
  normals = rng.standard_normal((batch, *size, 3)).astype(np.float32)
  labels = {
    'semseg': rng.integers(0, 4, (batch, *size, 1)),
    'parsing': rng.integers(0, 3, (batch, *size, 1)),
    'saliency': rng.integers(0, 2, (batch, *size, 1)),
    'boundary': rng.integers(0, 2, (batch, *size, 1)),
  }
  labels = {name: np.where(hole, 255, value).astype(np.uint8) for name, value in labels.items()}
  labels['normals'] = np.where(hole, 0, normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float32)
  labels['depth'] = np.where(hole, 0, rng.uniform(1, 5, (batch, *size, 1))).astype(np.float32)
  return labels


def random_variables(model, size=SIZE, seed: int = 0) -> dict:
  """Variables of the model's shapes, drawn in numpy: compiling an initialiser costs 20 s."""
  rng = np.random.default_rng(seed)

  def draw(path, x):
    z = rng.standard_normal(x.shape).astype(np.float32)
    name = path[-1].key
    if name == 'var':
      return 1 + 0.2 * np.abs(z)
    if name == 'scale':
      return 1 + 0.1 * z
    return z * (0.1 if name in ('bias', 'mean') else np.prod(x.shape[-4:-1]) ** -0.5)

  shapes = jax.eval_shape(lambda key: init_variables(model, key, size), jax.random.key(0))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def rng(name: str, seed: int = 0) -> np.random.Generator:
  """By the recipe of ../shared/parity."""
  return np.random.default_rng(zlib.crc32(f'{seed}/{name}'.encode()))


def torch_state(shapes: dict, seed: int = 0) -> dict[str, np.ndarray]:
  """Weights {PyTorch name: array} by that recipe."""
  state = {}
  for name, shape in shapes.items():
    z = rng(name, seed).standard_normal(shape)
    if name.endswith('running_mean'):
      z = 0.1 * z
    elif name.endswith('running_var'):
      z = 1 + 0.2 * np.abs(z)
    elif len(shape) < 2:
      z = 1 + 0.1 * z if name.endswith('weight') else 0.05 * z
    else:
      z = z / np.sqrt(np.prod(shape[1:]))
    state[name] = np.asarray(z, np.float32)
  return state


class Tiny:
  """A tiny model, its variables and a batch of four images."""

  def __init__(self, arg: str = '', tasks=TASKS, **model):
    self.config = tiny_config(arg)
    self.config.model.update(model)
    self.tasks = tasks
    self.model = build_model(self.config, tasks)
    self.variables = random_variables(self.model)
    rng = np.random.default_rng(0)
    self.images = rng.standard_normal((4, *SIZE, 3)).astype(np.float32)
    self.labels = random_labels(rng, 4)
    self.apply = jax.jit(self.model.apply)

  def inputs(self, pairs=None, key=jax.random.key(1)):
    return model_inputs(self.model, self.images, key, len(self.tasks), pairs)


@pytest.fixture(scope='module')
def short_encoder():
  """Two stages of one block, to compile in less time."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(encoder.STAGES, 'resnet18', (1, 1))
    yield


@pytest.fixture(scope='module')
def tiny_run(tmp_path_factory, short_encoder):
  """The workdir of a run of tiny with a short encoder at step 7, untrained."""
  tiny = Tiny('method=prediction')
  tiny.config.data.size = SIZE
  variables = jax.tree.map(np.float32, random_variables(tiny.model, seed=2))  # of seed 0 all is one class
  return convert.write_run(tmp_path_factory.mktemp('run'), tiny.config, TASKS, variables, 7)


@pytest.fixture
def fresh_flags(monkeypatch):
  """The command line's flags as before the first parse, each time; and in the end as they were."""
  from absl import flags

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
def no_downloads(monkeypatch):
  monkeypatch.setattr(raw.RawBuilder, 'url_infos', {})


@pytest.fixture
def pascal_raw(tmp_path):
  return raw_trees.pascal_tree(tmp_path)


@pytest.fixture
def nyud_raw(tmp_path):
  return raw_trees.nyud_tree(tmp_path)
