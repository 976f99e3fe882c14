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

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import tell, UserError

DONE = b'\1'
PATIENCE = 30  # seconds to connect
GRACE = 1  # second


def together(job: Callable[[], Any]) -> Any:
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
  tell(error)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(1)  # at an ordinary end JAX would wait for the others, and they for this process


def _connect() -> dict[int, socket.socket]:
  """{process: connection}: of the first process to all others, of these to the first."""
  first, partners = jax.process_index() == 0, {}
  dual = socket.has_dualstack_ipv6()
  with socket.create_server(('', 0), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual) as server:
    port, key = sharding.gather((server.getsockname()[1], secrets.token_bytes(16)))[0]
    try:
      if first:
        _accept(server, key, partners)
      else:
        partners[0] = _call(port, key)
    except OSError as error:
      print(f'no connection between the processes ({error}): where one dies, others wait 100 s', file=sys.stderr)
  return partners


def _call(port: int, key: bytes) -> socket.socket:
  host = str(distributed.global_state.coordinator_address).rpartition(':')[0].strip('[]')
  connection = socket.create_connection((host, port), PATIENCE)
  connection.sendall(key + jax.process_index().to_bytes(4))
  connection.settimeout(None)
  return connection


def _accept(server: socket.socket, key: bytes, partners: dict[int, socket.socket]):
  """Fills in the connections; strangers, who do not know the key, do not count."""
  server.settimeout(PATIENCE)
  while len(partners) < jax.process_count() - 1:
    connection, _ = server.accept()
    connection.settimeout(PATIENCE)
    hello = connection.makefile('rb').read(len(key) + 4)
    if hello[: len(key)] == key:
      connection.settimeout(None)
      partners[int.from_bytes(hello[len(key) :])] = connection
