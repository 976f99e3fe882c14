"""The recipe of `--mode=check`: its size and steps against sums by hand, its command against the command line."""

import shlex
import types

from absl import flags
import numpy as np
import pytest

from dmtl_jax import cli
from dmtl_jax.configs import folder
from dmtl_jax.data import transforms
from dmtl_jax.jobs import check, recipe
from dmtl_jax.models import build_model, counting
from dmtl_jax.tasks import make_task
from tests import toy
from tests.tiny import TASKS

UPRIGHT = [(256, 170)] * 5


@pytest.mark.parametrize('geometry', ['fit', 'pad'])
@pytest.mark.parametrize('shape', [(256, 170), (100, 90), (40, 700), (192, 256)])
def test_padding_is_what_evaluation_pads(shape, geometry):
  config = folder.get_config()
  example = {'image': np.full((*shape, 3), 200, np.uint8), 'labels': {}, 'index': 0}
  ready = transforms.eval_transform(config.data, geometry, ())(example)
  empty = 1 - ready['image'][..., 0].size / (192 * 256)
  assert abs(recipe.padding([shape], (192, 256), geometry) - empty) < 0.005


def test_no_padding_is_not_minus_zero():
  assert f'{recipe.padding([(480, 640)], (192, 256), "fit"):.0%}' == '0%'


@pytest.mark.parametrize(
  'shapes, size',
  [
    (UPRIGHT, (256, 176)),
    ([(192, 256)] * 3, (192, 256)),  # as it is
    ([(3000, 4000)] * 3, (192, 256)),
    ([(4000, 3000)] * 3, (256, 192)),
    ([(512, 512)], (224, 224)),
    ([(96, 128)] * 2, (96, 128)),  # small photographs are not enlarged
    ([(3000, 4000), (4000, 3000)], (192, 256)),  # 22% padding in the mean; in a square 25%
  ],
)
def test_the_size_has_the_shape_of_the_photographs(shapes, size):
  assert recipe.choose_size(shapes, (192, 256), 16, 'fit') == size


def test_a_size_for_any_shape():
  """Strips and specks too: multiples of the unit, not many more pixels."""
  for shape in ((1, 1), (1, 16384), (20, 3000), (7, 5)):
    height, width = recipe.choose_size([shape], (192, 256), 16, 'fit')
    assert height % 16 == width % 16 == 0
    assert 0 < height * width <= 1.1 * 192 * 256


@pytest.mark.parametrize('labelled, steps', [(1, 500), (100, 1500), (400, 3000), (1600, 6000), (10**6, 20_000)])
def test_four_times_the_labels_get_twice_the_steps(labelled, steps):
  assert recipe.choose_steps(labelled) == steps


@pytest.mark.parametrize('method', ['mtl_baseline', 'prediction'])
def test_flops_are_three_forward_passes_with_the_labelled_pairs_only(method):
  config = folder.get_config(f'method={method}')
  counted = counting.summarize(build_model(config, TASKS[:2]), (64, 64))
  denoiser = sum(part['gmac'] for name, part in counted['parts'].items() if name.startswith('denoiser'))
  source = types.SimpleNamespace(label_mask=np.array([[True, False]] * 4))
  assert recipe.step_flops(counted, 5, source) == pytest.approx(2e9 * 3 * 5 * (counted['gmac'] - denoiser / 2))
  assert (denoiser > 0) == (method == 'prediction')


def test_planned_times_agree_with_those_measured_on_an_h200(monkeypatch):
  """PASCAL's step in 37.8 ms and that of full-width scenes in 31.9 ms (docs/performance.md), within a third."""
  h200 = types.SimpleNamespace(half=989e12)
  monkeypatch.setattr(recipe.accelerators, 'find', lambda name: h200)
  monkeypatch.setattr(recipe, 'LEAST_SECONDS', 0)
  assert recipe.planned_seconds(12.297e12, 'h200') == pytest.approx(0.0378, rel=0.34)
  assert recipe.planned_seconds(7.012e12, 'h200') == pytest.approx(0.0319, rel=0.34)


def test_a_step_here_is_guessed_from_the_speed_of_a_product(monkeypatch):
  small, _, full = recipe.CHOICES
  assert recipe.guess_seconds(8e11, small, 1e11) == pytest.approx(20)
  assert recipe.guess_seconds(12e11, full, 1e11) == pytest.approx(10)
  monkeypatch.setattr(recipe.jax, 'default_backend', lambda: 'gpu')
  assert recipe.guess_seconds(25e11, small, 1e13) == pytest.approx(1)
  assert recipe.guess_seconds(1e9, small, 1e13) == recipe.LEAST_SECONDS


@pytest.fixture
def config(tmp_path):
  toy.write(tmp_path / 'my photos', 4, 2, size=(96, 64))
  config = folder.get_config()
  config.data.path = str(tmp_path / 'my photos')
  return config


def test_check_ends_with_commands_that_train_what_they_say(config, tmp_path, monkeypatch, fresh_flags, capsys):
  monkeypatch.setattr(
    recipe, 'guess_seconds', lambda flops, choice, speed: {'small': 7.2, 'full': 72}.get(choice.name, 1)
  )
  assert check.run(config, str(tmp_path / 'page.png')) == 0
  output = capsys.readouterr().out
  recipe_text = output.partition('a first run that suits these photographs:\n')[2]
  assert recipe_text.startswith('  size 96x64 (height x width): 0% of the input is padding; at 192x256, as now: 50%')
  assert 'training would show things 2 times as large as prediction does' in recipe_text
  assert '500 steps of 8 images' in recipe_text
  assert ' GMAC per image; about 60 min here, 1 min on a T4, 1 min on an A100\n' in recipe_text
  assert '; about 10 h here, ' in recipe_text
  commands = [line.strip() for line in recipe_text.split('\n') if ' --config=' in line]
  assert len(commands) == 3
  for text, fields in zip(
    commands, ((32, 64, ''), (64, 64, 'timm/resnet18.tv_in1k'), (64, 512, 'timm/resnet18.tv_in1k'))
  ):
    arguments = ['main.py', *shlex.split(text)[2:]]
    monkeypatch.setattr(cli.sys, 'argv', arguments)
    fresh_flags()
    cli._parse(arguments)
    parsed = flags.FLAGS.config
    assert (parsed.model.width, parsed.model.channels, parsed.init_from) == fields
    assert parsed.initial_loss == (0.5 if parsed.init_from else 0.1)
    assert parsed.data.size == (96, 64)
    assert parsed.data.path == config.data.path
    assert parsed.data.labels == 'full'
    assert parsed.train.steps == 500


def test_fields_that_the_user_set_stay_in_the_command(config):
  config.data.tasks = ('semseg', 'depth')
  config.eval.geometry = 'pad'
  text = recipe.command(config, recipe.CHOICES[0])
  assert "'--config.data.tasks=('\"'\"'semseg'\"'\"','\"'\"'depth'\"'\"')'" in text
  assert '--config.eval.geometry=pad' in text


def test_many_classes_widen_the_network(config):
  tasks = (make_task('semseg', 'semseg', tuple(f'c{i}' for i in range(40))),)
  widened = [recipe.configure(config, choice, (96, 64), 500, tasks).model.channels for choice in recipe.CHOICES]
  assert widened == [128, 128, 512]
  assert config.model.channels == 64


def test_a_benchmark_has_its_own_recipe():
  assert recipe.lines(types.SimpleNamespace(data=types.SimpleNamespace(name='pascal')), None) == []


def test_steps_are_timed_as_training_compiles_them(short_encoder):
  config = folder.get_config('method=mtl_baseline')
  config.model.update(width=4, channels=8)
  config.data.size, config.train.batch = (32, 32), 2
  source = types.SimpleNamespace(tasks=TASKS[:2], label_mask=np.ones((3, 2), bool))
  timing = recipe.time_steps(config, source, 'small')
  assert 0 < timing.step < timing.compiling
