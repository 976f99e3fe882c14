"""The config of a run as a config file, by which flags `--config.FIELD` change it for one command (see cli.py)."""

from dmtl_jax.runs import workdir


def get_config(path):
  return workdir.read_config(path)
