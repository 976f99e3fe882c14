"""Human parsing: a body part for every pixel."""

from dmtl_jax.tasks.base import IGNORE
from dmtl_jax.tasks.semseg import Semseg


class Parsing(Semseg):
  """As segmentation; class 0 is what is no part."""

  kind = 'parsing'
  title = 'Parsing'
  guides_crops = False

  def cropped(self, label):
    """As in PASCAL, where no part is seen nothing is said: neither of a whole image nor of a crop."""
    return label if ((label > 0) & (label != IGNORE)).any() else self.blank(*label.shape[:2])
