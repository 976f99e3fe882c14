"""What a program is compiled for: the devices of this process, or others (`compiling_for`), which need not exist here.

What is decided while a function is traced (which convolution, which mesh) asks this, and not `jax.default_backend()`.
"""

from collections.abc import Iterator, Sequence
import contextlib
import contextvars

import jax

_OTHER: contextvars.ContextVar[tuple[str, tuple] | None] = contextvars.ContextVar('_OTHER', default=None)


def platform() -> str:
  """'cpu', 'gpu' or 'tpu'."""
  other = _OTHER.get()
  return other[0] if other else jax.default_backend()


def devices() -> Sequence[jax.Device]:
  """Those that meshes are made of."""
  other = _OTHER.get()
  return other[1] if other else jax.devices()


@contextlib.contextmanager
def compiling_for(platform: str, devices: Sequence = ()) -> Iterator[None]:
  """Within it, what is traced and which mesh is made is for these devices.

  A jitted function keeps its traces: make those that are to be compiled for another platform within it.
  """
  before = _OTHER.set((platform, tuple(devices)))
  try:
    yield
  finally:
    _OTHER.reset(before)
