"""Conversion of PyTorch weights: real key sets, single entries, and every way a source can be wrong."""

import hashlib
import re

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy

from dmtl_jax import datasets
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import common
from dmtl_jax.datasets.pascal import TASKS
from dmtl_jax.inference import prediction
from dmtl_jax.jobs import convert
from dmtl_jax.models import build_model
from dmtl_jax.models.inputs import init_variables
from dmtl_jax.models.parts.encoder import ResNet
from dmtl_jax.runs import pretrained
from tests import torch_writer
from tests.hub_server import Repo
from tests.tiny import rng, torch_state


def torchvision_shapes(depth: str, width: int = 64) -> dict[str, tuple[int, ...]]:
  """torchvision's state_dict of resnet18 or resnet50: name -> shape."""
  shapes = {}

  def conv(name, out, into, kernel):
    shapes[f'{name}.weight'] = (out, into, kernel, kernel)

  def norm(name, channels):
    for entry in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{name}.{entry}'] = (channels,)
    shapes[f'{name}.num_batches_tracked'] = ()

  blocks, expansion = {'resnet18': ((2, 2, 2, 2), 1), 'resnet50': ((3, 4, 6, 3), 4)}[depth]
  kernels = {'resnet18': (3, 3), 'resnet50': (1, 3, 1)}[depth]
  conv('conv1', width, 3, 7)
  norm('bn1', width)
  into = width
  for stage, count in enumerate(blocks):
    channels = width * 2**stage
    for block in range(count):
      name = f'layer{stage + 1}.{block}'
      block_input = into
      for i, kernel in enumerate(kernels, 1):
        out = channels * expansion if i == len(kernels) else channels
        conv(f'{name}.conv{i}', out, into, kernel)
        norm(f'{name}.bn{i}', out)
        into = out
      if block == 0 and (stage > 0 or expansion > 1):
        conv(f'{name}.downsample.0', into, block_input, 1)
        norm(f'{name}.downsample.1', into)
  shapes |= {'fc.weight': (1000, into), 'fc.bias': (1000,)}
  return shapes


def variables_of(arg: str, width=8, channels=16, tasks=TASKS) -> dict:
  """Zero variables of a small network (of the true encoder at width 64)."""
  config = common.base(arg)
  config.model.update(width=width, channels=channels)
  model = build_model(config, tasks)
  shapes = jax.eval_shape(lambda key: init_variables(model, key, (64, 64)), jax.random.key(0))
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


@pytest.mark.parametrize('depth, entries, parameters', [('resnet18', 122, 11_689_512), ('resnet50', 320, 25_557_032)])
def test_published_encoders_fit(tmp_path, depth, entries, parameters):
  """The published numbers of entries and parameters; the converted encoder lacks only the classifier."""
  shapes = torchvision_shapes(depth)
  assert len(shapes) == entries
  trained = {name: shape for name, shape in shapes.items() if not re.search('running|num_batches', name)}
  assert sum(int(np.prod(shape)) for shape in trained.values()) == parameters
  state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
  variables = variables_of(f'backbone={depth}', width=64)
  loaded = pretrained.load_torchvision(state, variables, depth)
  encoder = loaded['params']['backbone'].pop('encoder')
  assert sum(x.size for x in jax.tree.leaves(encoder)) == parameters - state['fc.weight'].size - state['fc.bias'].size
  assert all((x == 1).all() for x in jax.tree.leaves((encoder, loaded['batch_stats']['backbone'].pop('encoder'))))
  assert all((x == 0).all() for x in jax.tree.leaves(loaded)), 'touched more than the encoder'


def test_bottleneck_encoder_computes_what_torch_does(tmp_path):
  """A ResNet-50 of width 8: mean, deviation and corner of each stage from PyTorch 2.13's functions."""
  safetensors.numpy.save_file(torch_state(torchvision_shapes('resnet50', width=8)), tmp_path / 'x.safetensors')
  variables = pretrained.load(str(tmp_path / 'x.safetensors'), variables_of('backbone=resnet50'), TASKS)
  encoder = {part: variables[part]['backbone']['encoder'] for part in variables}
  images = rng('image').standard_normal((1, 3, 64, 96))
  images = images.astype(np.float32).transpose(0, 2, 3, 1)
  stages = jax.jit(ResNet('resnet50', width=8).apply, static_argnums=2)(encoder, images, False)
  expected = [
    ((16, 24, 32), 1.1001894, 1.0433481, (0.0850168, 0.0, 0.0924730)),
    ((8, 12, 64), 0.5042183, 0.6075478, (0.0, 0.4320306, 0.0)),
    ((4, 6, 128), 0.5937012, 0.6353517, (0.1846352, 0.0, 0.0)),
    ((2, 3, 256), 0.4351363, 0.5266156, (1.4594178, 0.6104932, 1.1892588)),
  ]
  for stage, (shape, mean, deviation, corner) in zip(stages, expected):
    assert stage.shape == (1, *shape)
    np.testing.assert_allclose((stage.mean(), stage.std(), *stage[0, 0, 0, :3]), (mean, deviation, *corner), atol=2e-5)


def test_every_single_task_network_gets_the_encoder():
  state = torch_state(torchvision_shapes('resnet18', width=8))
  loaded = pretrained.load_torchvision(state, variables_of('method=single_task'), 'x')
  for task in TASKS:
    kernel = loaded['params'][task.name]['backbone']['encoder']['conv1']['kernel']
    np.testing.assert_array_equal(kernel, state['conv1.weight'].transpose(2, 3, 1, 0))


def released_state(variables: dict) -> dict[str, np.ndarray]:
  """A random checkpoint of the network's size under the released names, as the authors' code saves it."""
  state = {}
  for name, (view,) in pretrained.released_views(variables, TASKS).items():
    state[f'module.{name}'] = rng(name).standard_normal(view.shape).astype(np.float32)
    if name.endswith('running_var'):
      state[f'module.{name.removesuffix("running_var")}num_batches_tracked'] = np.array(7, np.int64)
  for name in ('betas', 'alphas_cumprod_prev', 'sqrt_recipm1_alphas_cumprod', 'posterior_log_variance_clipped'):
    state[f'module.diffusion_model.{name}'] = np.zeros(2, np.float32)
  return state


def write_checkpoint(path, state: dict, write=torch_writer.write_zip):
  """A `.pth.tar` file {'model': state, 'epoch': 99}."""
  storages = {name: torch_writer.Storage(array.ravel(), str(i)) for i, (name, array) in enumerate(state.items())}

  def tensor(name, array):
    stride = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)[: array.ndim]
    return torch_writer.tensor(storages[name], array.shape, stride)

  content = {'model': {name: tensor(name, array) for name, array in state.items()}, 'epoch': 99}
  return str(write(path, content, list(storages.values())))


@pytest.fixture(scope='module')
def feature():
  return variables_of('method=feature,preset=released')


@pytest.fixture(scope='module')
def state(feature):
  return released_state(feature)


@torch_writer.WRITERS
def test_released_checkpoint(tmp_path, feature, state, write):
  """Every array is filled, and entries of each kind lie where the networks' definitions put them."""
  loaded = pretrained.load(write_checkpoint(tmp_path / 'x.pth.tar', state, write), feature, TASKS)
  assert all((x != 0).all() for x in jax.tree.leaves(loaded))
  assert all((x == 0).all() for x in jax.tree.leaves(feature)), 'changed the variables it was given'
  params = loaded['params']

  def of(name: str):
    return state[f'module.{name}']

  denoiser = 'diffusion_model.denoiser'
  for ours, theirs in [
      (params['backbone']['encoder']['layer2_0']['downsample_conv']['kernel'][0, 0, 3, 5],
       of('backbone.layer2.0.downsample.0.weight')[5, 3, 0, 0]),
      (loaded['batch_stats']['backbone']['encoder']['layer4_1']['bn2']['var'][7],
       of('backbone.layer4.1.bn2.running_var')[7]),
      (params['backbone']['reduce']['kernel'][0, 2, 9, 4], of('backbone_embed.weight')[4, 9, 0, 2]),
      (params['decoders']['boundary_block1']['conv2']['kernel'][1, 2, 3, 4],
       of('preliminary_dec.edge.1.conv2.weight')[4, 3, 1, 2]),
      (params['decoders']['parsing_head']['bias'][6], of('preliminary_head.human_parts.0.bias')[6]),
      (params['conditioning']['fuse']['kernel'][2, 0, 33, 1],
       of('diffusion_model.pred_combinator.out_layer.weight')[1, 33, 2, 0]),
      (params['denoiser']['embed']['kernel'][2, 0, 1, 3, 4], of(f'{denoiser}.pre_layer.sal.weight')[4, 3, 0, 1]),
      (params['denoiser']['heads']['conv3']['bias'][3, 5], of(f'{denoiser}.task_heads.normals.5.bias')[5]),
      (params['denoiser']['block3']['attn']['kv']['kernel'][2, 20],
       of(f'{denoiser}.crossblocks.3.attn.kv.weight')[20, 2]),
      (params['denoiser']['block0']['norm_mlp_kv']['scale'][2], of(f'{denoiser}.crossblocks.0.norm2_kv.weight')[2]),
      (params['denoiser']['step_embed']['fc2']['kernel'][3, 4], of(f'{denoiser}.t_embedder.mlp.2.weight')[4, 3]),
      (params['head']['kernel'][6, 21 + 7 + 1], of(f'{denoiser}.final_task_heads.sal.linear_pred.weight')[1, 6, 0, 0]),
      (params['head']['bias'][33], of(f'{denoiser}.final_task_heads.edge.linear_pred.bias')[0]),
  ]:  # fmt: skip
    assert ours == theirs


def test_what_does_not_fit_is_listed(feature, state):
  plain = {name.removeprefix('module.'): array for name, array in state.items()}
  with pytest.raises(UserError) as caught:
    changed = dict(plain, surprise=np.zeros(3), **{'backbone_embed.bias': np.zeros(5, np.float32)})
    del changed['backbone.conv1.weight']
    pretrained.load_released(changed, feature, TASKS, 'x.pth.tar')
  assert str(caught.value).startswith(
    'x.pth.tar does not fit this network (1 missing: backbone.conv1.weight; 1 unknown: surprise; '
    '1 of another shape: backbone_embed.bias (5,), here (16,))'
  )
  blocks = {name: array for name, array in plain.items() if '.crossblocks.0.' not in name}
  with pytest.raises(UserError, match=r'\(20 missing: ([\w.]+, ){10}\.\.\.\)'):
    pretrained.load_released(blocks, feature, TASKS, 'x.pth.tar')
  with pytest.raises(UserError, match='1 of another shape: backbone_embed.bias str, here'):
    pretrained.load_released(plain | {'backbone_embed.bias': 'text'}, feature, TASKS, 'x.pth.tar')
  with pytest.raises(UserError, match='semseg, parsing, saliency, normals, boundary, in this order'):
    pretrained.load_released(plain, feature, TASKS[::-1], 'x.pth.tar')
  with pytest.raises(UserError, match='use method=feature,preset=released'):
    pretrained.load_released(plain, variables_of('method=prediction'), TASKS, 'x.pth.tar')
  with pytest.raises(UserError, match='layer1.0.conv3'):
    pretrained.load_torchvision(torch_state(torchvision_shapes('resnet50', 8)), feature, 'resnet50.pth')


def test_sources_that_are_none(tmp_path, feature):
  (tmp_path / 'x.safetensors').write_bytes(b'nonsense')
  torch_writer.write_zip(tmp_path / 'list.pth', [1, 2])
  torch_writer.write_zip(tmp_path / 'numbers.pth', {1: 2})
  for name, message in [
    ('missing.pth', 'no such file'),
    ('x.safetensors', 'damaged or not a safetensors file'),
    ('list.pth', "holds neither named weights nor a 'model'"),
    ('numbers.pth', "holds neither named weights nor a 'model'"),
  ]:
    with pytest.raises(UserError, match=message):
      pretrained.load(str(tmp_path / name), feature, TASKS)


def test_encoders_of_the_hub_are_pinned_and_checked(tmp_path, monkeypatch, feature):
  state = torch_state(torchvision_shapes('resnet18', 8))
  path = tmp_path / 'model.safetensors'
  safetensors.numpy.save_file(state, path)
  asked = []

  def deliver(repo_id, filename, *, revision):
    asked.append((repo_id, filename, revision))
    return str(path)

  monkeypatch.setattr(huggingface_hub, 'hf_hub_download', deliver)
  name = 'timm/resnet18.tv_in1k'
  with pytest.raises(UserError, match='sha256 is'):  # the file of this test is not the published one
    pretrained.load(name, feature, TASKS)
  revision, _ = pretrained.HUB[name]
  monkeypatch.setitem(pretrained.HUB, name, (revision, hashlib.sha256(path.read_bytes()).hexdigest()))
  loaded = pretrained.load(name, feature, TASKS)
  np.testing.assert_array_equal(loaded['params']['backbone']['encoder']['bn1']['scale'], state['bn1.weight'])
  assert asked == [(name, 'model.safetensors', revision)] * 2
  assert all(len(revision) == 40 and len(sha256) == 64 for revision, sha256 in pretrained.HUB.values())


def test_other_encoders_of_the_hub_are_logged_with_commit_and_sha256(tmp_path, hub_server, capsys, feature):
  state = torch_state(torchvision_shapes('resnet18', 8))
  path = tmp_path / 'model.safetensors'
  safetensors.numpy.save_file(state, path)
  repo = hub_server.repos['timm/resnet18.a1_in1k'] = Repo({'model.safetensors': path.read_bytes()})
  loaded = pretrained.load('timm/resnet18.a1_in1k', feature, TASKS)
  np.testing.assert_array_equal(loaded['params']['backbone']['encoder']['bn1']['scale'], state['bn1.weight'])
  sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
  assert f'timm/resnet18.a1_in1k: commit {repo.head}, sha256 {sha256}' in capsys.readouterr().out
  source = pretrained.pin('timm/resnet18.a1_in1k')
  repo.commit({})
  assert pretrained.resolve(source).read_bytes() == path.read_bytes()
  with pytest.raises(UserError, match='timm/resnet18.none: no download .*no such run, or a private one'):
    pretrained.load('timm/resnet18.none', feature, TASKS)
  with pytest.raises(UserError, match='no such file, and not on the Hub: timm/resnet18.NAME, timm/resnet50.NAME'):
    pretrained.load('timm/resnet34.a1_in1k', feature, TASKS)


def test_hub_out_of_reach(tmp_path, monkeypatch, feature):
  """The real client, offline and with an empty cache."""
  monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
  monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
  with pytest.raises(UserError, match='timm/resnet50.tv_in1k: no download .*give the path of its model.safetensors'):
    pretrained.load('timm/resnet50.tv_in1k', feature, TASKS)


def test_a_released_checkpoint_becomes_a_run_that_restores(tmp_path, feature, state):
  config = common.benchmark('method=feature,preset=released', 'pascal')
  config.model.update(width=8, channels=16)
  source = write_checkpoint(tmp_path / 'x.pth.tar', state)
  convert.run(source, str(tmp_path / 'run'), config)
  predictor = prediction.load(str(tmp_path / 'run'))  # restores as --mode=evaluate does
  assert [task.channels for task in predictor.tasks] == [21, 7, 2, 3, 1]
  assert predictor.config.model.heads == 4
  assert predictor.config.init_from == source
  # A run of ours is a source too.
  restored = pretrained.load(str(tmp_path / 'run'), feature, TASKS)
  jax.tree.map(np.testing.assert_array_equal, restored, pretrained.load(source, feature, TASKS))

  with pytest.raises(UserError, match='already there'):
    convert.run(source, str(tmp_path / 'run'), config)
  encoder = tmp_path / 'encoder.safetensors'
  safetensors.numpy.save_file(torch_state(torchvision_shapes('resnet18', 8)), encoder)
  with pytest.raises(UserError, match='no whole model'):
    convert.run(str(encoder), str(tmp_path / 'new'), config)
  assert not (tmp_path / 'new').exists()


def test_a_run_is_made_light_to_give_away(tmp_path, tiny_run):
  """It holds the best weights in bfloat16, and loads like any run, or by the name of a data set."""
  convert.run(str(tiny_run), str(tmp_path / 'scenes' / 'trained'), None)
  heavy, light = (prediction.load(path).variables for path in (tiny_run, tmp_path / 'scenes' / 'trained'))
  light_size, heavy_size = (
    sum(file.stat().st_size for file in (path / 'checkpoints').rglob('*'))
    for path in (tmp_path / 'scenes' / 'trained', tiny_run)
  )
  assert light_size < 0.7 * heavy_size
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), heavy, light)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets, '__path__', [str(tmp_path)])
    named = prediction.load('scenes').variables
  jax.tree.map(np.testing.assert_array_equal, named, light)
  with pytest.raises(UserError, match='already there'):
    convert.run(str(tiny_run), str(tmp_path / 'scenes' / 'trained'), None)
