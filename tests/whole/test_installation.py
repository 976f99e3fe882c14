"""What an installation brings: one package, with every file that the checkout has of it."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.tiny import ROOT

FOLDERS, FILES = ('dmtl_jax', 'configs', 'datasets'), ('pyproject.toml', 'README.md', 'LICENSE')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The files of the wheel: the folder they are unpacked in."""
  source, unpacked = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
  for part in FOLDERS:  # a copy: a build leaves its folders beside what it builds
    shutil.copytree(ROOT / part, source / part, symlinks=True)
  for part in FILES:
    shutil.copy(ROOT / part, source / part)
  build = 'import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])'
  subprocess.run([sys.executable, '-c', build, source], cwd=source, check=True, capture_output=True)
  (file,) = source.glob('*.whl')
  with zipfile.ZipFile(file) as archive:
    archive.extractall(unpacked)
  return unpacked


def files(folder: pathlib.Path) -> set[str]:
  """All files below a folder, those behind links too."""
  paths = (os.path.join(path, name) for path, _, names in os.walk(folder, followlinks=True) for name in names)
  return {os.path.relpath(path, folder) for path in paths if '__pycache__' not in path}


def test_a_wheel_brings_one_package_and_all_of_its_files(wheel):
  (about,) = wheel.glob('*.dist-info')
  assert {path.name for path in wheel.iterdir()} == {'dmtl_jax', about.name}  # `datasets` is Hugging Face's
  assert files(wheel / 'dmtl_jax') == files(ROOT / 'dmtl_jax')
  assert 'dmtl = dmtl_jax.cli:main' in (about / 'entry_points.txt').read_text()


def test_configs_go_by_name_outside_a_checkout(wheel, tmp_path):
  ask = "from dmtl_jax import configs; print(configs.find('configs/scenes.py:diffusion_steps=3'))"
  environment = os.environ | {'PYTHONPATH': str(wheel)}
  command = [sys.executable, '-c', ask]
  done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
  assert done.stdout.strip() == f'{wheel}/dmtl_jax/configs/scenes.py:diffusion_steps=3', done.stderr
