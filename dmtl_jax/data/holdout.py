"""Chooses the images to validate on where they are a part of the training images."""

import numpy as np

from dmtl_jax.data.label_settings import stable_hash
from dmtl_jax.datasets import duplicates
from dmtl_jax.datasets.source import Source


def hold_out(source: Source, share: float) -> np.ndarray:
  """Chooses a share of the labelled images: mask [N] bool, the same in every run.

  Each task keeps its share, and each class where the source knows which images show it: tasks and classes are handled
  one by one, the rarest first, and the images of each with the lowest hashes of their ids are held out (iterative
  stratification, Sechidis et al. 2011). So images that are added later move few others. Every task with two or more
  labels has one on either side. Copies of a picture stay together.

  Where two or more pictures have positive pixels of a binary task (`Source.positives_shown`), and all of them would be
  on one side, the choice is repeated with one of them held out and one learned from; few other images change sides.
  """
  labelled = np.flatnonzero(source.label_mask.any(1))
  held_out = np.zeros(len(source), bool)
  if not len(labelled):
    return held_out
  tasks = source.label_mask[labelled]
  classes, positives = (
    tasks[:, :0] if shown is None else shown[labelled] for shown in (source.classes_shown, source.positives_shown)
  )
  picture = np.arange(len(labelled))
  if source.thumbnails is not None:
    _, picture = np.unique(duplicates.pictures(source.thumbnails[labelled]), return_inverse=True)
  tasks, classes, positives = (_of_pictures(traits, picture) for traits in (tasks, classes, positives))
  hashes = np.full(len(tasks), 2**64 - 1, np.uint64)
  np.minimum.at(
    hashes, picture, np.array([stable_hash('hold out', source.ids[i]) for i in labelled.tolist()], np.uint64)
  )
  order = np.argsort(hashes, kind='stable')
  split = np.zeros(positives.shape[1], bool)  # binary tasks whose positives are to be on either side
  while True:
    chosen = _choose(positives[:, split], tasks, classes, order, share)
    counts = positives[chosen].sum(0)
    totals = positives.sum(0)
    one_sided = (totals > 1) & ((counts == 0) | (counts == totals)) & ~split
    if not one_sided.any():
      break
    split |= one_sided
  held_out[labelled] = chosen[picture]
  return held_out


def _of_pictures(traits: np.ndarray, picture: np.ndarray) -> np.ndarray:
  """Traits [P, F] bool that any of a picture's images has, from those [N, F] of the images and their pictures [N]."""
  merged = np.zeros((picture.max() + 1, traits.shape[1]), bool)
  np.logical_or.at(merged, picture, traits)
  return merged


def _choose(
  positives: np.ndarray, tasks: np.ndarray, classes: np.ndarray, order: np.ndarray, share: float
) -> np.ndarray:
  """Mask [P] of the pictures to hold out, from masks [P, F] of their traits, and their order by hash.

  Of tasks and classes it holds out a share, of `positives` one. Of tasks and `positives` one stays.
  """
  traits = np.hstack([positives, tasks, classes])
  chosen, decided = np.zeros((2, len(traits)), bool)
  kept = np.hstack([positives, tasks])  # of each of which one stays
  learned = kept.sum(0)  # pictures that are not held out
  for trait in np.argsort(traits.sum(0), kind='stable'):
    members = order[traits[order, trait]]
    free = members[~decided[members]]
    wanted = 0 if trait < positives.shape[1] else round(share * len(members))
    if trait < kept.shape[1]:  # classes too rare for a share may have decided on all of its pictures
      wanted = max(wanted, 1)
      free = np.concatenate([free, members[decided[members] & ~chosen[members]]])
    wanted -= chosen[members].sum()
    for picture in free:
      if wanted <= 0:
        break
      if (learned[kept[picture]] > 1).all():
        chosen[picture] = True
        learned -= kept[picture]
        wanted -= 1
    decided[members] = True
  return chosen
