"""What every network returns."""

from typing import Any

from flax import struct
import jax


@struct.dataclass
class Output:
  """What every model returns: raw maps at stride 8, before `Task.activate`.

  Attributes:
    final: {task: [B, h, w, C_t]}; 0 for a pair that was not denoised.
    initial: {task: [B, h, w, C_t]} before the diffusion; empty for methods without.
    steps: {task: [S + 1, B, h, w, C_t]} for figures: the decayed map X_S, then the map after
      each step (features are passed through the head); empty for methods without.
    extra: what a method's own loss needs (see its module).
  """

  final: dict[str, jax.Array]
  initial: dict[str, jax.Array] = struct.field(default_factory=dict)
  steps: dict[str, jax.Array] = struct.field(default_factory=dict)
  extra: dict[str, Any] = struct.field(default_factory=dict)
