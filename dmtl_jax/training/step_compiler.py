"""Compiles the training step in a thread, while data are rendered and the first weights are made."""

import concurrent.futures
import threading

import jax
import numpy as np

from dmtl_jax.basics import stopping
from dmtl_jax.basics.progress import say
from dmtl_jax.data import source as source_lib
from dmtl_jax.training import cost, setup


class StepCompiler:
  """Compiles the training step of a config, in a thread after `start`; with several hosts, when it is needed.

  Not in a thread on several hosts: all of them must start their programs in the same order.
  """

  def __init__(self, config):
    self._config = config
    self._facts: setup.DataFacts | None = None
    self._compiled: concurrent.futures.Future | None = None

  def start(self, training: setup.Training | None):
    """Begins to compile; does nothing if this step is compiling already, or for None."""
    if training is None or training.facts == self._facts or jax.process_count() > 1:
      return
    self._facts = training.facts
    self._compiled = concurrent.futures.Future()
    # A daemon: after Ctrl-C, XLA could go on for minutes. `stopping.exit_while_compiling` ends the process meanwhile.
    threading.Thread(target=self._run, args=(training, self._compiled), name=stopping.COMPILING, daemon=True).start()

  def result(self, training: setup.Training):
    """The compiled step; waits for it. Raises what the compiler raised in the thread."""
    compiled = self._compiled if training.facts == self._facts else None
    if compiled is None or not compiled.done():
      say('compiling the training step')
    return compiled.result() if compiled else compile_step(self._config, training)

  def _run(self, training: setup.Training, compiled: concurrent.futures.Future):
    try:
      compiled.set_result(compile_step(self._config, training))
    except BaseException as error:  # raised by `result`, in the thread that needs the step
      compiled.set_exception(error)


def compile_step(config, training: setup.Training):
  """The compiled step (see `step.TrainStep`) for the batches of a config."""
  size, weighted = tuple(config.data.size), training.facts.are_weighted
  batch = cost.abstract_batch(config.train.batch, size, training.facts.tasks, training.mesh, weighted)
  return training.update.lower(setup.abstract_state(training), batch, 1).compile()


def expect(config) -> setup.Training | None:
  """The training on data that are still to be rendered, all of whose labels exist; None if only the data tell.

  It has the step of `setup.build` if the facts are equal.
  """
  data = config.data
  is_known = 'train_count' in data and data.labels in ('one', 'full') and config.class_weights == 'none'
  if not is_known or source_lib.holdout_fraction(data):
    return None
  tasks = source_lib.data_tasks(data)
  mask = np.zeros((data.train_count, len(tasks)), bool)
  mask[:, : 1 if data.labels == 'one' else None] = True
  return setup.build_without_data(config, tasks, mask)
