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
  """
  labelled = np.flatnonzero(source.label_mask.any(1))
  held_out = np.zeros(len(source), bool)
  if not len(labelled):
    return held_out
  tasks = source.label_mask[labelled]
  classes = tasks[:, :0] if source.classes_shown is None else source.classes_shown[labelled]
  picture = np.arange(len(labelled))
  if source.thumbnails is not None:
    _, picture = np.unique(duplicates.pictures(source.thumbnails[labelled]), return_inverse=True)
  traits = np.zeros((picture.max() + 1, tasks.shape[1] + classes.shape[1]), bool)
  np.logical_or.at(traits, picture, np.hstack([tasks, classes]))
  hashes = np.full(len(traits), 2**64 - 1, np.uint64)
  np.minimum.at(
    hashes, picture, np.array([stable_hash('hold out', source.ids[i]) for i in labelled.tolist()], np.uint64)
  )
  held_out[labelled] = _choose(traits, np.argsort(hashes, kind='stable'), tasks.shape[1], share)[picture]
  return held_out


def _choose(traits: np.ndarray, order: np.ndarray, tasks: int, share: float) -> np.ndarray:
  """Mask [P] of the pictures to hold out; traits [P, F] are the tasks, then the classes, and `order` is by hash."""
  chosen, decided = np.zeros((2, len(traits)), bool)
  of_tasks = traits[:, :tasks]
  learned = of_tasks.sum(0)  # pictures with a label of each task that are not held out
  for trait in np.argsort(traits.sum(0), kind='stable'):
    members = order[traits[order, trait]]
    free = members[~decided[members]]
    wanted = round(share * len(members))
    if trait < tasks:  # classes too rare for a share may have decided on all of its pictures
      wanted = max(wanted, 1)
      free = np.concatenate([free, members[decided[members] & ~chosen[members]]])
    wanted -= chosen[members].sum()
    for picture in free:
      if wanted <= 0:
        break
      if (learned[of_tasks[picture]] > 1).all():
        chosen[picture] = True
        learned -= of_tasks[picture]
        wanted -= 1
    decided[members] = True
  return chosen
