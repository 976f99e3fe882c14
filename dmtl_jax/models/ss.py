"""SS: semi-supervised learning by consistency, a baseline of MTPSL (Li, Liu, Bilen, CVPR 2022)."""

import jax
import jax.numpy as jnp

from dmtl_jax.models.base import Forward, register
from dmtl_jax.models.mtl_baseline import MTLBaseline
from dmtl_jax.models.parts import views


def augmentation_consistency(run: Forward) -> jax.Array:
  """Loss of unlabelled tasks' predictions that do not follow the image under augmentation.

  The network predicts a second view of each image (zoomed crop, flip, brightness and contrast). The target
  is the first view's prediction, transformed likewise and without gradient. Their distance is MTPSL's
  (`Task.consistency`), averaged over pixels, times the task's weight.
  """
  mask = run.batch['label_mask']
  view = views.draw(run.key, len(mask))
  student, _ = run.apply(view.image(run.batch['image']))
  columns = []
  for task in run.tasks:
    target = view.prediction(task, task.soft_prediction(jax.lax.stop_gradient(run.output.final[task.name])))
    columns.append(task.consistency(student.final[task.name], target).mean((1, 2)))
  return (jnp.where(~mask, jnp.stack(columns, axis=1), 0) * run.weights).sum(1).mean()


register('ss', MTLBaseline, 'SS', row=3, color='#a98bd4', loss=augmentation_consistency, uses_unlabelled=True)
