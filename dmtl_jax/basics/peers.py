"""Processes that work together: where one ends too early, the others end too, and say so.

Otherwise they would wait for it until JAX misses its heartbeats (100 s), and abort with a stack trace. Each holds
a connection to the first, which the system closes when a process ends, however that came about. Only a machine
that is gone without a word, by a cut cable or cut power, is left to the heartbeats.
"""

from collections.abc import Callable
import os
import secrets
import socket
import sys
import threading
import time
from typing import Any, NoReturn

import jax
from jax._src import distributed
from jax.experimental import multihost_utils

from dmtl_jax.basics.errors import print_error, sanitize, UserError

DONE = b'\1'
NAME = 'dmtl_jax/partners'  # of what the coordinator carries
PATIENCE = 30  # seconds to connect
GRACE = 1  # second


def run_with_peers(job: Callable[[], Any]) -> Any:
  """What the job of this process returns, one of several that have joined by `jax.distributed`.

  Where it fails, and where another process ends before all are done, this one tells it and ends with status 1.
  """
  partners = _connect()
  for number, connection in partners.items():
    threading.Thread(target=_watch, args=(number, connection), daemon=True).start()
  try:
    result = job()
    multihost_utils.sync_global_devices('done')
  except BaseException as error:
    time.sleep(GRACE)  # for `_watch`, if a partner's end is the reason; for the partners, if all fail alike
    _end(error)
  for connection in partners.values():
    connection.sendall(DONE)
  return result


def _watch(number: int, connection: socket.socket):
  try:
    told = connection.recv(len(DONE))
  except OSError:
    told = b''
  if told != DONE:
    _end(
      UserError(
        f'process {number} of {jax.process_count()} ended before the work was done, so this one ends too; run the '
        f'same command again: what was saved is whole, and training goes on from its last checkpoint'
      )
    )


def _end(error: BaseException) -> NoReturn:
  print_error(error)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(1)  # at an ordinary end JAX would wait for the others, and they for this process


def _connect() -> dict[int, socket.socket]:
  """{process: connection}: of the first process to all others, of these to the first.

  Before the first collective operation, which would wait for a process that has died. JAX's coordinator carries the
  port, and a key that strangers do not know.
  """
  partners = {}
  try:
    if jax.process_index() == 0:
      _accept(partners)
    else:
      partners[0] = _call()
  except (OSError, jax.errors.JaxRuntimeError) as error:
    reason = sanitize(str(error), 100)
    print(f'no connection between the processes ({reason}): where one dies, others wait 100 s', file=sys.stderr)
  return partners


def _accept(partners: dict[int, socket.socket]):
  """Fills in the connections; strangers do not count."""
  key, dual = secrets.token_bytes(16), socket.has_dualstack_ipv6()
  with socket.create_server(('', 0), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual) as server:
    _coordinator().key_value_set(NAME, f'{server.getsockname()[1]} {key.hex()}')
    server.settimeout(PATIENCE)
    while len(partners) < jax.process_count() - 1:
      connection, _ = server.accept()
      connection.settimeout(PATIENCE)
      hello = connection.makefile('rb').read(len(key) + 4)
      if hello[: len(key)] == key:
        connection.settimeout(None)
        partners[int.from_bytes(hello[len(key) :])] = connection


def _coordinator() -> Any:
  return distributed.global_state.client


def _call() -> socket.socket:
  port, key = _coordinator().blocking_key_value_get(NAME, 1000 * PATIENCE).split()
  host = str(distributed.global_state.coordinator_address).rpartition(':')[0].strip('[]')
  connection = socket.create_connection((host, int(port)), PATIENCE)
  connection.sendall(bytes.fromhex(key) + jax.process_index().to_bytes(4))
  connection.settimeout(None)
  return connection
