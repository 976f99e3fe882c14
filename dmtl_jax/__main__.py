"""`python -m dmtl_jax` does what `main.py` does in a checkout, and so does the script `dmtl`."""

import sys

from dmtl_jax import cli

if __name__ == '__main__':
  sys.exit(cli.main())
