"""Compiling less: where compiled programs are kept, and what tracing them need not wait for."""

import gc

import jax

from dmtl_jax.basics import caches


def use_cache():
  """Keeps compiled programs in the user's cache folder unless JAX is told another place."""
  elsewhere = jax.config.jax_compilation_cache_dir  # pyrefly: ignore[missing-attribute] (made when jax starts)
  if not elsewhere and (home := caches.folder()):
    jax.config.update('jax_compilation_cache_dir', str(home / 'jax'))


def collect_rarely():
  """Has Python look for garbage less often, never among what was imported: it was a fifth of the time of tracing."""
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)
