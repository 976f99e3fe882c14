"""Human parsing: a body part per pixel."""

from dmtl_jax.tasks.semseg import Semseg


class Parsing(Semseg):
  """Like segmentation; class 0 is everything that is not a body part."""

  kind = 'parsing'
  title = 'Parsing'
  guides_crops = False

  def label_after_crop(self, label):
    """As in PASCAL-Context, a map without any (known) body part is unlabelled, be it of a whole image or of a crop."""
    return label if ((label > 0) & (label < len(self.classes))).any() else self.blank(*label.shape[:2])
