"""Second views of images, their labels and predictions: a zoomed crop, a flip, other brightness and contrast."""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.tasks import Task

ZOOMS = (1.0, 1.2, 1.5)  # MTPSL's on NYUD and Cityscapes


@struct.dataclass
class View:
  """One view per image of a batch of B.

  Attributes:
    zoom: [B] magnification, 1 or more.
    corner: [B, 2] of the crop, in 0..1 of the room left by it.
    flip: [B] bool.
    contrast: [B] factor of pixel values.
    brightness: [B] added after it.
  """

  zoom: jax.Array
  corner: jax.Array
  flip: jax.Array
  contrast: jax.Array
  brightness: jax.Array

  def image(self, images: jax.Array) -> jax.Array:
    """Images [B, H, W, 3] as seen in the view."""
    return self.maps(images) * _column(self.contrast) + _column(self.brightness)

  def maps(self, maps: jax.Array) -> jax.Array:
    """Maps [B, h, w, C] cropped, zoomed (bilinear) and flipped."""
    size = jnp.array(maps.shape[1:3])

    def crop(x, zoom, corner):
      translation = -corner * size * (zoom - 1)
      scale = jnp.stack([zoom, zoom])
      return jax.image.scale_and_translate(x, x.shape, (0, 1), scale, translation, 'linear', antialias=False)

    return self._flipped(jax.vmap(crop)(maps, self.zoom, self.corner))

  def prediction(self, task: Task, maps: jax.Array) -> jax.Array:
    """Predictions (`Task.soft_prediction`) in the view; a flip mirrors normals, a zoom divides depths."""
    return self._values(task, self.maps(maps))

  def label(self, task: Task, label: jax.Array) -> jax.Array:
    """Labels [B, H, W, K] in the view, with the nearest label for each pixel."""

    def nearest(size, zoom, corner):
      return ((jnp.arange(size) + 0.5 + corner * size * (zoom - 1)) / zoom).astype(jnp.int32)

    def crop(x, zoom, corner):
      return x[nearest(x.shape[0], zoom, corner[0])][:, nearest(x.shape[1], zoom, corner[1])]

    return self._values(task, self._flipped(jax.vmap(crop)(label, self.zoom, self.corner))).astype(label.dtype)

  def _flipped(self, maps):
    return jnp.where(_column(self.flip), maps[:, :, ::-1], maps)

  def _values(self, task: Task, maps):
    mirrored = jnp.where(_column(self.flip), task.flip_values(maps), maps)
    return task.rescale_for_zoom(mirrored, _column(self.zoom))


def draw(key: jax.Array, batch: int) -> View:
  """Random crops of any zoom up to MTPSL's largest, flips, contrast and brightness."""
  zoom, corner, flip, contrast, brightness = jax.random.split(key, 5)
  return View(
    zoom=jax.random.uniform(zoom, (batch,), minval=1, maxval=ZOOMS[-1]),
    corner=jax.random.uniform(corner, (batch, 2)),
    flip=jax.random.bernoulli(flip, shape=(batch,)),
    contrast=jax.random.uniform(contrast, (batch,), minval=0.6, maxval=1.4),
    brightness=jax.random.uniform(brightness, (batch,), minval=-0.4, maxval=0.4),
  )


def draw_crops(key: jax.Array, batch: int, flips: bool) -> View:
  """MTPSL's second view: a random crop of one of its zooms, flipped with probability 0.5 if `flips`."""
  zoom, corner, flip = jax.random.split(key, 3)
  return View(
    zoom=jax.random.choice(zoom, np.float32(ZOOMS), (batch,)),
    corner=jax.random.uniform(corner, (batch, 2)),
    flip=jax.random.bernoulli(flip, shape=(batch,)) & flips,
    contrast=jnp.ones(batch),
    brightness=jnp.zeros(batch),
  )


def _column(values):
  """[B] to [B, 1, 1, 1]."""
  return values[:, None, None, None]
