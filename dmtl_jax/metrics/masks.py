"""Many masks of one image: stored at the few pixels that are in any, and as bits of words for work on 64 at a time."""

from typing import NamedTuple

import numpy as np

WORD = np.dtype('<u8')
WORD_BITS = 64


class MaskStack(NamedTuple):
  """T masks of one image, stored only at the pixels that are in any of them.

  Attributes:
    shape: (H, W).
    place: [N] flat positions of these pixels, ascending.
    inside: [N, T] bool, which masks a pixel is in.
  """

  shape: tuple[int, int]
  place: np.ndarray
  inside: np.ndarray

  @classmethod
  def from_masks(cls, masks: np.ndarray) -> 'MaskStack':
    """The stack of masks [T, H, W] bool."""
    place = np.flatnonzero(masks.any(0))
    return cls(masks.shape[1:], place, masks.reshape(len(masks), -1)[:, place].T)

  def to_masks(self) -> np.ndarray:
    """The masks [T, H, W] bool."""
    masks = np.zeros((self.inside.shape[1], self.shape[0] * self.shape[1]), bool)
    masks[:, self.place] = self.inside.T
    return masks.reshape(-1, *self.shape)

  def sizes(self) -> np.ndarray:
    """Number of pixels [T] int64 of each mask."""
    return self.inside.sum(0)


def pack(bits: np.ndarray) -> np.ndarray:
  """Words [N] of up to 64 bits each, from [N, T] bool."""
  packed = np.zeros((len(bits), WORD.itemsize), np.uint8)
  octets = np.packbits(bits, axis=1, bitorder='little')
  packed[:, : octets.shape[1]] = octets
  return packed.view(WORD)[:, 0]


def unpack(words: np.ndarray, count: int) -> np.ndarray:
  """Inverse of `pack`: [N, count] bool."""
  return np.unpackbits(words[:, None].view(np.uint8), axis=1, bitorder='little', count=count).view(bool)
