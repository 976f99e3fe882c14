"""Faster compiling: a cache of compiled programs, and less garbage collection while tracing."""

import gc

import jax

from dmtl_jax.basics import caches


def use_cache():
  """Keeps compiled programs in the user's cache folder, unless JAX is configured to use another."""
  configured = jax.config.jax_compilation_cache_dir  # pyrefly: ignore[missing-attribute] (made when jax starts)
  if not configured and (folder := caches.folder()):
    jax.config.update('jax_compilation_cache_dir', str(folder / 'jax'))


def collect_rarely():
  """Makes Python collect garbage rarely, and never among imported modules: it took a fifth of the time of tracing."""
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)
