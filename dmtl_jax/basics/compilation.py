"""Options of compilation, a cache of compiled programs, and less garbage collection while tracing."""

import functools
import gc

import jax

from dmtl_jax.basics import caches, target

# Of the operations that XLA may give to the library YNNPACK on CPUs, only matrix products: its reductions over few
# channels and its strided convolutions are up to nine times as slow as XLA's own.
PRODUCTS_BY_LIBRARY = {
  'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
}


def use_cache():
  """Keeps compiled programs in the user's cache folder, unless JAX is configured to use another."""
  configured = jax.config.jax_compilation_cache_dir  # pyrefly: ignore[missing-attribute] (made when jax starts)
  if not configured and (folder := caches.folder()):
    jax.config.update('jax_compilation_cache_dir', str(folder / 'jax'))


def collect_rarely():
  """Makes Python collect garbage rarely, and never among imported modules: it took a fifth of the time of tracing."""
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


def train_options() -> dict[str, str] | None:
  """XLA's options for the training step, as `jax.jit` takes them; None if it needs none, or XLA does not know them."""
  return PRODUCTS_BY_LIBRARY if target.platform() == 'cpu' and _are_known() else None


@functools.cache
def _are_known() -> bool:
  """Whether this version of XLA has `PRODUCTS_BY_LIBRARY`; it raises for options that it does not have."""
  try:
    jax.jit(lambda: 0, compiler_options=PRODUCTS_BY_LIBRARY).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
