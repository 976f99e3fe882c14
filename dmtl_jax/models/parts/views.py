"""Second views of images, and of what belongs to them: a zoomed crop, a flip, other brightness and contrast."""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.tasks import Task

ZOOMS = (1.0, 1.2, 1.5)  # MTPSL's on NYUD and Cityscapes


@struct.dataclass
class View:
  """A view of each of B images.

  Attributes:
    zoom: [B], how much larger a scene is seen, 1 or more.
    corner: [B, 2] of the crop, in 0..1 of the way there is.
    flip: [B] bool.
    contrast, brightness: [B], what pixels are multiplied by and what is added then.
  """

  zoom: jax.Array
  corner: jax.Array
  flip: jax.Array
  contrast: jax.Array
  brightness: jax.Array

  def image(self, images: jax.Array) -> jax.Array:
    """Images [B, H, W, 3] in the view."""
    return self.maps(images) * _column(self.contrast) + _column(self.brightness)

  def maps(self, maps: jax.Array) -> jax.Array:
    """Maps [B, h, w, C] cropped, zoomed (bilinear) and flipped."""
    size = jnp.array(maps.shape[1:3])

    def one(x, zoom, corner):
      translation = -corner * size * (zoom - 1)
      scale = jnp.stack([zoom, zoom])
      return jax.image.scale_and_translate(x, x.shape, (0, 1), scale, translation, 'linear', antialias=False)

    return self._flipped(jax.vmap(one)(maps, self.zoom, self.corner))

  def prediction(self, task: Task, maps: jax.Array) -> jax.Array:
    """Predictions (`Task.soft_prediction`) in the view; a flip mirrors normals, a zoom brings depth nearer."""
    return self._values(task, self.maps(maps))

  def label(self, task: Task, label: jax.Array) -> jax.Array:
    """Labels [B, H, W, K] in the view: of each pixel the one that lies there, nothing is mixed."""

    def one(x, zoom, corner):
      place = lambda n, c: ((jnp.arange(n) + 0.5 + c * n * (zoom - 1)) / zoom).astype(jnp.int32)
      return x[place(x.shape[0], corner[0])][:, place(x.shape[1], corner[1])]

    return self._values(task, self._flipped(jax.vmap(one)(label, self.zoom, self.corner))).astype(label.dtype)

  def _flipped(self, maps):
    return jnp.where(_column(self.flip), maps[:, :, ::-1], maps)

  def _values(self, task: Task, maps):
    mirrored = jnp.where(_column(self.flip), task.flip_values(maps), maps)
    return task.rescale_for_zoom(mirrored, _column(self.zoom))


def draw(key: jax.Array, batch: int) -> View:
  """Crops of any zoom up to MTPSL's largest, flipped, with another contrast and brightness."""
  zoom, corner, flip, contrast, brightness = jax.random.split(key, 5)
  uniform = lambda key, low, high: jax.random.uniform(key, (batch,), minval=low, maxval=high)
  return View(
    uniform(zoom, 1, ZOOMS[-1]),
    jax.random.uniform(corner, (batch, 2)),
    jax.random.bernoulli(flip, shape=(batch,)),
    uniform(contrast, 0.6, 1.4),
    uniform(brightness, -0.4, 0.4),
  )


def draw_crops(key: jax.Array, batch: int, flips: bool) -> View:
  """MTPSL's second view: a crop of one of its zooms; with `flips` every second one is flipped, on average."""
  zoom, corner, flip = jax.random.split(key, 3)
  zooms = jax.random.choice(zoom, np.float32(ZOOMS), (batch,))
  flipped = jax.random.bernoulli(flip, shape=(batch,)) & flips
  return View(zooms, jax.random.uniform(corner, (batch, 2)), flipped, jnp.ones(batch), jnp.zeros(batch))


def _column(values):
  """[B] to [B, 1, 1, 1]."""
  return values[:, None, None, None]
