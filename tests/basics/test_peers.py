"""Processes that work together, here as threads: connected only by the coordinator, they notice each other's end."""

import socket
import threading
import types

import jax
import pytest

from dmtl_jax.basics import peers, sharding


class Coordinator:
  """What JAX's client does with keys and values."""

  def __init__(self):
    self.values, self.there = {}, threading.Event()

  def key_value_set(self, key, value):
    self.values[key] = value
    self.there.set()

  def blocking_key_value_get(self, key, milliseconds):
    assert self.there.wait(milliseconds / 1000)
    return self.values[key]


@pytest.fixture
def two(monkeypatch):
  """{process: {partner: connection}} of two processes, connected after a stranger has called."""
  own = threading.local()
  coordinator = Coordinator()
  connected = {}
  monkeypatch.setattr(jax, 'process_index', lambda: own.number)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  # A collective would wait for a process that has died.
  monkeypatch.setattr(sharding, 'gather', pytest.fail)
  monkeypatch.setattr(peers.multihost_utils, 'process_allgather', pytest.fail)
  state = types.SimpleNamespace(client=coordinator, coordinator_address='localhost:1')
  monkeypatch.setattr(peers.distributed, 'global_state', state)

  def process(number):
    own.number = number
    if number:
      assert coordinator.there.wait(10)
      port = int(coordinator.values[peers.ADDRESS_KEY].split()[0])
      with socket.create_connection(('localhost', port)) as stranger:
        stranger.sendall(b'?' * 20)
    connected[number] = peers._connect()

  threads = [threading.Thread(target=process, args=(number,)) for number in (0, 1)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(20)
  return connected


@pytest.mark.parametrize('done', [True, False])
def test_an_end_is_reported_unless_the_work_was_done(two, monkeypatch, done):
  assert {number: list(others) for number, others in two.items()} == {0: [1], 1: [0]}
  errors = []
  monkeypatch.setattr(peers, '_exit_with', errors.append)
  if done:
    two[1][0].sendall(peers.DONE)
  two[1][0].close()  # as the system does when a process ends
  peers._watch(1, two[0][1])
  expected = [] if done else ['process 1 of 2 ended before the work was done, so this']
  assert [str(error)[:54] for error in errors] == expected
