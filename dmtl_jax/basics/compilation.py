"""Where compiled programs are kept."""

import os

import jax


def use_cache():
  """Keeps compiled programs in the user's cache folder unless JAX is told another place."""
  if not jax.config.jax_compilation_cache_dir:  # pyrefly: ignore[missing-attribute] (made when jax starts)
    home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    jax.config.update('jax_compilation_cache_dir', os.path.join(home, 'dmtl_jax', 'jax'))
