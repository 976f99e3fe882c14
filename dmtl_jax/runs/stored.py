"""A run's config as a config file, so that flags `--config.FIELD` can change it for one command (see cli.py)."""

from dmtl_jax.runs import workdir


def get_config(path):
  return workdir.read_config(path)
