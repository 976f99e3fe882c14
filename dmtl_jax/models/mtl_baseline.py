"""The MTL baseline: a shared encoder and one decoder per task (docs/paper.md, table of parameters)."""

from flax import linen as nn
import jax

from dmtl_jax.models.base import Network, Output, register


class MTLBaseline(Network):
  """Shared encoder and, for each task, six residual blocks and a 1x1 head."""

  decoder_blocks: int = 6

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Images to final maps; `extra` holds F_backbone as 'features'."""
    features = self._encoder()(images, train)
    decoded = self._decoders(self.decoder_blocks)(features, train)
    return Output(final=decoded.predictions, extra={'features': features})


register(
  'mtl_baseline', MTLBaseline, 'MTL Baseline', row=2, color='#c98500', baseline=True, cost='157 M, 608 GMAC',
)  # fmt: skip
