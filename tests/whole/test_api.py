"""The public names of the package: light to import, described with an example, and checked as the flags are."""

import inspect
import os
import subprocess
import sys

import pytest

import dmtl_jax
from dmtl_jax import api
from dmtl_jax.basics import compilation
from tests.tiny import ROOT

NAMES = [name for name in dmtl_jax.__all__ if name != '__version__']


def test_importing_the_package_imports_no_jax():
  ask = "import dmtl_jax, sys; print(dir(dmtl_jax), {'jax', 'numpy', 'ml_collections'} & set(sys.modules))"
  done = subprocess.run([sys.executable, '-c', ask], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == f'{sorted(dmtl_jax.__all__)} set()'


@pytest.mark.parametrize('name', NAMES)
def test_a_public_name_is_described_with_an_example(name):
  value = getattr(dmtl_jax, name)
  assert '>>> ' in inspect.getdoc(value)
  assert f'dmtl_jax.{name}\n' in (ROOT / 'docs/api.md').read_text()
  if inspect.isfunction(value):
    signature = inspect.signature(value)
    annotations = [parameter.annotation for parameter in signature.parameters.values()]
    assert inspect.Signature.empty not in [*annotations, signature.return_annotation]


def test_an_unknown_name_is_no_attribute():
  assert not hasattr(dmtl_jax, 'trian')


def test_a_config_takes_fields_by_dotted_names():
  config = dmtl_jax.get_config('scenes:method=feature', **{'train.steps': 100, 'loss_weights.depth': 2})
  assert config.method == 'feature'
  assert config.train.steps == 100
  assert config.loss_weights.depth == 2
  with pytest.raises(AttributeError, match='steps'):
    config.train.stpes = 3


@pytest.mark.parametrize(
  'name, fields, message',
  [
    ('sceens', {}, 'did you mean scenes'),
    ('scenes:diffusion_steps=many', {}, 'diffusion_steps takes a whole number'),
    ('scenes', {'train.stpes': 1}, 'did you mean --config.train.steps'),
    ('scenes', {'train.steps': 'many'}, "'steps'"),
    ('scenes', {'train.batch': 0}, 'train.batch must be a whole number from 1'),
    (str(ROOT / 'README.md'), {}, 'not a Python file'),
  ],
)
def test_a_wrong_config_is_a_user_error(name, fields, message):
  with pytest.raises(dmtl_jax.UserError, match=message):
    dmtl_jax.get_config(name, **fields)


def test_evaluating_changes_fields_of_the_run_s_config(tiny_run, monkeypatch):
  calls = []
  monkeypatch.setattr(api.evaluate_job, 'run', lambda *args: calls.append(args))
  dmtl_jax.evaluate(tiny_run, 'latest', **{'eval.diffusion_steps': 4})
  ((config, workdir, *options),) = calls
  assert config.eval.diffusion_steps == 4
  assert workdir == str(tiny_run)
  assert options == ['latest', False, False, None]


@pytest.mark.parametrize(
  'workdir, message',
  [
    (None, "workdir: None is no path; give the folder of a trained run, or the name of a network: 'scenes'"),
    ('', "workdir: '' is no path"),
    ('scene', 'scene: no such folder; .*; did you mean scenes?'),
    ('runs/nothing', 'runs/nothing: no such folder; --workdir must name the folder of a trained run$'),
    ('https://host/run', "--workdir: 'https://host/run' is an address"),
  ],
)
def test_a_run_that_is_not_there(workdir, message):
  with pytest.raises(dmtl_jax.UserError, match=message):
    dmtl_jax.load(workdir)


def test_results_in_a_bucket_are_refused_where_they_would_land_in_a_local_folder(tiny_run, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for call in (
    lambda: dmtl_jax.evaluate('gs://my-bucket/run'),
    lambda: dmtl_jax.evaluate(tiny_run, out='gs://my-bucket/scores'),
    lambda: dmtl_jax.predict(tiny_run, 'photos', 'gs://my-bucket/maps'),
    lambda: dmtl_jax.predict_labels(tiny_run, 'photos', 'gs://my-bucket/maps'),
    lambda: dmtl_jax.suggest(tiny_run, 'gs://my-bucket/next'),
  ):
    with pytest.raises(dmtl_jax.UserError, match='gs:// is not supported there; give'):
      call()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda: dmtl_jax.suggest('runs/mine', 'next', count=2.5), '--count=2.5: give the number of pairs to suggest'),
    (lambda: dmtl_jax.suggest('runs/mine', 'next', count=0), '--count=0: give'),
    (lambda: dmtl_jax.predict_labels('runs/mine', confidence=90), '--confidence=90: give a probability, 0 to 1'),
    (lambda: dmtl_jax.predict_labels('runs/mine', confidence='high'), '--confidence=high: give'),
    (lambda: dmtl_jax.predict_labels('runs/mine', confidence=float('nan')), '--confidence=nan: give'),
  ],
)
def test_a_number_out_of_range(call, message):
  with pytest.raises(dmtl_jax.UserError, match=message):
    call()


def test_loading_keeps_compiled_programs(tiny_run, monkeypatch):
  calls = []
  monkeypatch.setattr(compilation, 'use_cache', lambda: calls.append(1))
  dmtl_jax.load(tiny_run)
  assert calls == [1]


@pytest.mark.parametrize('own', ['', 'own'])
def test_compiled_programs_are_kept(own, tmp_path):
  """Also by a process that has compiled before; not in our folder where JAX has another."""
  code = """if True:
    import jax, numpy
    from dmtl_jax.basics import compilation
    jax.jit(lambda x: x + 1)(1)
    compilation.use_cache()
    jax.jit(lambda x: x @ x + 2)(numpy.ones((3, 3)))
  """
  settings = {'XDG_CACHE_HOME': str(tmp_path), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  environment = {key: x for key, x in os.environ.items() if key != 'JAX_COMPILATION_CACHE_DIR'} | settings
  if own:
    environment['JAX_COMPILATION_CACHE_DIR'] = str(tmp_path / own)
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=environment, check=True)
  assert any((tmp_path / (own or 'dmtl_jax/jax')).iterdir())
  assert not own or not (tmp_path / 'dmtl_jax').exists()
