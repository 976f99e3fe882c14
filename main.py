"""Trains, evaluates and runs DiffusionMTL and its peers; see --help."""

import sys

from dmtl_jax import cli

if __name__ == '__main__':
  sys.exit(cli.main())
