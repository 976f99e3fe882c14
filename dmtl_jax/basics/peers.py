"""Several processes of one job: if one ends too early, the others end too, with a message.

Otherwise they would wait until JAX misses its heartbeats (100 s), and abort with a stack trace. Each process has
a connection to the first, which the system closes when a process ends for any reason. Only a machine that
vanishes silently, with a cut cable or power, is left to the heartbeats.
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
ADDRESS_KEY = 'dmtl_jax/partners'  # the coordinator's key for port and secret of the first process
TIMEOUT = 30  # seconds to connect
GRACE = 1  # second


def run_with_peers(job: Callable[[], Any]) -> Any:
  """Runs and returns the job of this process, one of several that have joined by `jax.distributed`.

  If it fails, or if another process ends before all are done, this process says so and exits with status 1.
  """
  peers = _connect()
  for number, connection in peers.items():
    threading.Thread(target=_watch, args=(number, connection), daemon=True).start()
  try:
    result = job()
    multihost_utils.sync_global_devices('done')
  except BaseException as error:
    time.sleep(GRACE)  # so that `_watch` reports a peer's end, if that is the cause, and peers that fail alike report
    _exit_with(error)
  for connection in peers.values():
    connection.sendall(DONE)
  return result


def _watch(number: int, connection: socket.socket):
  try:
    message = connection.recv(len(DONE))
  except OSError:
    message = b''
  if message != DONE:
    _exit_with(
      UserError(
        f'process {number} of {jax.process_count()} ended before the work was done, so this one ends too; run the '
        f'same command again: what was saved is whole, and training goes on from its last checkpoint'
      )
    )


def _exit_with(error: BaseException) -> NoReturn:
  print_error(error)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(1)  # at a normal exit JAX would wait for the others, and they for this process


def _connect() -> dict[int, socket.socket]:
  """Connects the first process with all others; returns {process: connection}.

  To be called before the first collective operation, which would wait for a process that has died. JAX's coordinator
  passes on the port, and a secret that keeps strangers out.
  """
  peers = {}
  try:
    if jax.process_index() == 0:
      _accept(peers)
    else:
      peers[0] = _call_first()
  except (OSError, jax.errors.JaxRuntimeError) as error:
    reason = sanitize(str(error), 100)
    print(f'no connection between the processes ({reason}): where one dies, others wait 100 s', file=sys.stderr)
  return peers


def _accept(peers: dict[int, socket.socket]):
  """Fills in the connections of all other processes; ignores strangers."""
  secret = secrets.token_bytes(16)
  dual = socket.has_dualstack_ipv6()
  with socket.create_server(('', 0), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual) as server:
    _coordinator().key_value_set(ADDRESS_KEY, f'{server.getsockname()[1]} {secret.hex()}')
    server.settimeout(TIMEOUT)
    while len(peers) < jax.process_count() - 1:
      connection, _ = server.accept()
      connection.settimeout(TIMEOUT)
      hello = connection.makefile('rb').read(len(secret) + 4)
      if hello[: len(secret)] == secret:
        connection.settimeout(None)
        peers[int.from_bytes(hello[len(secret) :])] = connection


def _coordinator() -> Any:
  return distributed.global_state.client


def _call_first() -> socket.socket:
  port, secret = _coordinator().blocking_key_value_get(ADDRESS_KEY, 1000 * TIMEOUT).split()
  host = str(distributed.global_state.coordinator_address).rpartition(':')[0].strip('[]')
  connection = socket.create_connection((host, int(port)), TIMEOUT)
  connection.sendall(bytes.fromhex(secret) + jax.process_index().to_bytes(4))
  connection.settimeout(None)
  return connection
