"""The devices to compile for: those of this process, or others (`compiling_for`), which need not exist here.

Choices made while a function is traced (which convolution, which mesh) ask this, not `jax.default_backend()`.
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
  """The devices that meshes are made of."""
  other = _OTHER.get()
  return other[1] if other else jax.devices()


@contextlib.contextmanager
def compiling_for(platform: str, devices: Sequence = ()) -> Iterator[None]:
  """Makes everything that is traced, and every mesh, in this block for these devices.

  `jax.jit` and `jax.checkpoint` keep the traces of a function: create functions to compile for another platform inside
  the block, and give those of a module the platform as a static argument.
  """
  before = _OTHER.set((platform, tuple(devices)))
  try:
    yield
  finally:
    _OTHER.reset(before)
