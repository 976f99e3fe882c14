"""Single-task networks, the reference of Delta_m."""

from flax import linen as nn
import jax

from dmtl_jax.models.base import Output, register
from dmtl_jax.models.mtl_baseline import MTLBaseline


class SingleTask(MTLBaseline):
  """One separate MTL baseline per task, trained side by side; they share nothing."""

  clips_parts = True

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Images to final maps."""
    final = {}
    for task in self.tasks:
      fields = self._shared() | dict(tasks=(task,), decoder_blocks=self.decoder_blocks)
      final |= MTLBaseline(**fields, name=task.name)(images, train=train).final
    return Output(final=final)

  def part(self, path):
    """Each task's network is a part."""
    return path[0]


register(
  'single_task', SingleTask, 'Single-Task', row=1, color='#8a94a6', reference=True, balances_images=False,
  cost='219 M, 817 GMAC; five networks with 219 M in total cost 717, so 817 is taken for a misprint',
)  # fmt: skip
