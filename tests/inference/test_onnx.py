"""ONNX: operations against JAX, and exported files in onnxruntime against the Python API."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import calibration, onnx_convert, onnx_file, onnx_graph, prediction
from dmtl_jax.jobs import export
from tests import calibrations
from tests.tiny import random_variables, SIZE, TASKS, Tiny

pytestmark = pytest.mark.usefixtures('short_encoder')


@pytest.fixture
def onnx():
  return pytest.importorskip('onnx', reason='onnx is not installed')


@pytest.fixture
def onnxruntime(onnx):
  return pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')


@pytest.fixture(scope='module')
def images():
  """Three images with low frequencies, so that their maps differ."""
  small = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
  return small.repeat(8, 1).repeat(8, 2)


def run_file(onnxruntime, path, **inputs) -> dict[str, np.ndarray]:
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3
  session = onnxruntime.InferenceSession(str(path), options)
  names = [x.name for x in session.get_outputs()]
  return dict(zip(names, session.run(names, inputs)))


def assert_same(task, got, want):
  assert got.dtype == want.dtype
  assert got.shape == want.shape
  if task.classes:
    assert (got == want).mean() > 0.999, task.name
    assert len(np.unique(want)) > 1, f'{task.name}: a constant map proves nothing'
  else:
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4, err_msg=task.name)
    assert want.std() > 1e-3, f'{task.name}: a constant map proves nothing'


def test_a_file_gives_what_the_predictor_gives(onnxruntime, tiny_run, images, tmp_path, capsys):
  calibration.write(tiny_run, calibrations.calibration(TASKS))
  out = tmp_path / 'model.onnx'
  export.run(str(tiny_run), 'best', str(out))
  printed = capsys.readouterr().out
  assert 'uint8[batch,64,96,3]' in printed
  assert 'differs from the predictor here by at most' in printed
  predictor = prediction.load(tiny_run)
  three, one = (run_file(onnxruntime, out, image=batch) for batch in (images, images[1:2]))
  assert list(three) == [*(t.name for t in TASKS), *(f'initial/{t.name}' for t in TASKS)]
  for i, image in enumerate(images):
    final, initial = predictor(image), predictor.raw(image).predictions('initial', SIZE)
    for task in TASKS:
      assert_same(task, three[task.name][i], final[task.name])
      assert_same(task, three[f'initial/{task.name}'][i], initial[task.name])
  for name, maps in one.items():  # alone as among others
    np.testing.assert_allclose(maps[0], three[name][1], atol=1e-5)


def test_noise_has_a_value_that_can_be_replaced(onnx, onnxruntime, tiny_run, images, tmp_path):
  out = tmp_path / 'model.onnx'
  predictor = prediction.load(tiny_run)
  out.write_bytes(onnx_file.build(predictor, 'run').SerializeToString())
  noise = onnx_file.Network(predictor).noise
  by_seed, given, without = (
    run_file(onnxruntime, out, image=images[:1], **inputs)['depth']
    for inputs in ({}, {'noise': noise}, {'noise': np.zeros_like(noise)})
  )
  np.testing.assert_array_equal(by_seed, given)
  assert np.abs(by_seed - without).max() > 1e-3


def test_metadata_say_what_the_maps_are(onnx, tiny_run):
  calibration.write(tiny_run, calibrations.calibration(TASKS))
  values = onnx_file.metadata(prediction.load(tiny_run), 'mine')
  assert (values['run'], json.loads(values['step'])) == ('mine', 7)
  assert json.loads(values['input'])['size'] == list(SIZE)
  tasks = {task['name']: task for task in json.loads(values['tasks'])}
  assert tasks['semseg']['classes'] == list(TASKS[0].classes)
  assert tasks['boundary']['values'] == 'calibrated probability, 0 to 1'
  assert 0 < tasks['boundary']['threshold'] < 1


@pytest.mark.parametrize(
  'arg, tasks', [('method=feature,preset=released', (TASKS[0], TASKS[3])), ('method=task_prototype', TASKS[-2:])]
)
def test_other_methods(onnxruntime, arg, tasks, images, tmp_path):
  """Draws of the posterior, activations in bfloat16, which the file computes in float32; a codebook and no noise."""
  tiny = Tiny(arg, tasks=tasks)
  predictor = prediction.Predictor(tiny.model, random_variables(tiny.model, seed=2), SIZE, tiny.config.eval, 0)
  out = tmp_path / 'model.onnx'
  low = prediction.Predictor(
    tiny.model.clone(dtype=jnp.bfloat16), predictor.variables, SIZE, tiny.config.eval, 0
  )  # of the same seed
  model = onnx_file.build(low, 'run')
  assert [x.name for x in model.graph.input] == (['image', 'noise'] if tiny.model.draws_noise else ['image'])
  out.write_bytes(model.SerializeToString())
  maps = run_file(onnxruntime, out, image=images[:2])
  for i in (0, 1):
    want = predictor(images[i])
    for task in tiny.tasks:
      assert_same(task, maps[task.name][i], want[task.name])


def test_a_file_that_gives_other_maps_is_not_written(onnxruntime, tmp_path, monkeypatch):
  tiny = Tiny('method=mtl_baseline', tasks=TASKS[-1:])
  predictor = prediction.Predictor(tiny.model, tiny.variables, SIZE, tiny.config.eval, 0)
  broken = jax.tree.map(lambda x: x * np.float32('nan'), tiny.variables)
  build = onnx_file.build
  other = prediction.Predictor(tiny.model, broken, SIZE, tiny.config.eval, 0)
  monkeypatch.setattr(onnx_file, 'build', lambda _, run: build(other, run))
  monkeypatch.setattr(export.prediction, 'load', lambda *_: predictor)
  with pytest.raises(UserError, match='--out: not written, since 100.0% of the values of a map differ'):
    export.run('run', 'best', str(tmp_path / 'model.onnx'))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'want, got, largest, share',
  [
    (np.float32([[1, 200]]), np.float32([[1, 201]]), 0.005, 0.5),
    (np.float32([[0.5, 0.5]]), np.float32([[0.5, 0.5004]]), 0.0004, 0),
    (np.uint8([[1, 2, 3, 4]]), np.uint8([[1, 2, 3, 0]]), 0.25, 0.25),
  ],
)
def test_differences_are_relative_to_large_values(want, got, largest, share):
  np.testing.assert_allclose(onnx_file._compare_maps(want, got), (largest, share), rtol=1e-2)


def pool(x, init, function, padding):
  return jax.lax.reduce_window(x, init, function, (3, 3, 1), (2, 2, 1), padding)


FUNCTIONS = {
  'max_pool': lambda x: pool(x, -np.inf, jax.lax.max, [(1, 1), (0, 1), (0, 0)]),
  'sum_pool': lambda x: pool(x, 0.0, jax.lax.add, [(1, 1), (0, 1), (0, 0)]),
  'conv': lambda x: jax.lax.conv_general_dilated(
    x[None], jnp.sin(jnp.arange(90.0)).reshape(3, 3, 1, 10)[..., :4], (1, 2), [(2, 2), (0, 1)], rhs_dilation=(2, 1),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=4)[0],
  'products': lambda x: jnp.einsum('hwc,hvc->hwv', x, x[:, ::2]) + jnp.einsum('hwc,vw->hv', x, jnp.ones((3, 6)))[:, None],
  'scan': lambda x: jnp.stack(jax.lax.scan(lambda c, r: (c + r, c * r), x[0], x, reverse=True)[1]),
  'repeated scan': lambda x: jax.lax.scan(lambda c, r: (c * r, c), x[0] / 2, jnp.broadcast_to(x[:1], (3, 6, 4)))[0],
  'repeated': lambda x: jnp.concatenate([jnp.broadcast_to(x[:1], x.shape), jnp.broadcast_to(jnp.arange(4.0), x.shape)]),
  'padded': lambda x: jnp.pad(x, ((0, 0), (1, 2), (3, 0)), constant_values=2),
  'parts': lambda x: jnp.stack(jnp.split(x[1:5:2, :, ::3], 2, axis=1), 1),
  'tiled': lambda x: jnp.tile(x, (1, 2, 1)) * 2,
  'gelu': lambda x: jax.nn.gelu(x, approximate=False) + jax.nn.silu(x) + jax.lax.integer_pow(x, 3) + jax.lax.rsqrt(x * x + 1),
  'logic': lambda x: jnp.where((x > 0) & ~(x != jnp.abs(x)) | (x < -1), jnp.maximum(x, 0.5), -x),
  'rows': lambda x: jnp.sin(jnp.arange(12.0)).reshape(4, 3)[jnp.argmin(x, 2)] + x[..., :3],
  'reduced': lambda x: x.max(1) + jnp.argmax(x, 1).astype(jnp.float32) - x.min(1),
}  # fmt: skip


@pytest.mark.parametrize('name', FUNCTIONS)
def test_an_operation_is_that_of_jax(onnx, onnxruntime, name):
  function = FUNCTIONS[name]
  converted = onnx_convert.convert(
    lambda x: {'y': function(x)}, {'x': jax.ShapeDtypeStruct((5, 6, 4), jnp.float32)}, 'x'
  )
  info = onnx.helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, ['batch', 5, 6, 4])
  outputs = [onnx.helper.make_empty_tensor_value_info(x) for x in converted.outputs.values()]
  graph = onnx.helper.make_graph(converted.nodes, 'g', [info], outputs, converted.initializers)
  model = onnx.helper.make_model(
    graph, opset_imports=[onnx.helper.make_opsetid('', onnx_graph.OPSET)], ir_version=onnx_graph.IR_VERSION
  )
  x = np.random.default_rng(0).standard_normal((3, 5, 6, 4)).astype(np.float32)
  (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {'x': x})
  np.testing.assert_allclose(got, jax.vmap(function)(x), atol=1e-5)


def test_equal_constants_are_stored_once(onnx):
  def function(x):
    return {'y': (x @ np.eye(4, dtype=np.float32) + x) @ jnp.eye(4)}

  converted = onnx_convert.convert(function, {'x': jax.ShapeDtypeStruct((2, 4), jnp.float32)}, 'x')
  assert [tuple(x.dims) for x in converted.initializers].count((4, 4)) == 1


def test_an_operation_without_a_rule_is_named(onnx):
  with pytest.raises(UserError, match="has the operation 'sort', which is not converted to ONNX; write"):
    onnx_convert.convert(lambda x: {'y': jnp.sort(x)}, {'x': jax.ShapeDtypeStruct((4,), jnp.float32)}, 'x')


@pytest.mark.parametrize(
  'function, name',
  [
    (lambda x: jax.lax.reduce(x, np.float32(0), lambda a, b: a + b - a * b, [0]), "the operation 'reduce'"),
    (lambda x: jnp.sin(x)[jnp.arange(2), x[0].astype(int)], 'indexing of other parts than rows'),
  ],
)
def test_operations_that_are_only_like_others_are_named(onnx, function, name):
  with pytest.raises(UserError, match=f'has {name}, which is not converted'):
    onnx_convert.convert(lambda x: {'y': function(x)}, {'x': jax.ShapeDtypeStruct((4, 2), jnp.float32)}, 'x')


def test_without_the_package(tiny_run, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'onnx', None)
  with pytest.raises(UserError, match='needs the package onnx; run pip install onnx'):
    export.run(str(tiny_run), 'best', str(tmp_path / 'model.onnx'))
  assert not list(tmp_path.iterdir())
