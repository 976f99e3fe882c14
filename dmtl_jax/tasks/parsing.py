"""Human parsing: a body part for every pixel."""

from dmtl_jax.tasks.semseg import Semseg


class Parsing(Semseg):
  """As segmentation; class 0 is what is no part."""

  kind = 'parsing'
  title = 'Parsing'
  guides_crops = False
