"""The lock of a run in a bucket: an object that the process which trains there renews.

Every write of it is conditional on the object's generation, so that of two processes only one succeeds. A lock that is
not renewed for STALE seconds was left by a machine that vanished, and is taken over; so is, without waiting, one of a
process of this machine that is no longer there.
"""

import contextlib
import json
import os
import secrets
import threading
import time
from typing import Any

from dmtl_jax.basics import bucket
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say

NAME = '.lock'
RENEW = 15.0  # seconds
STALE = 60.0  # seconds; by the clock of the process that waits, so clocks need not agree


class BucketLock:
  """The lock of a mirror's folder in its bucket, held until `close`.

  Raises:
    UserError: another process is training there, or the bucket cannot be reached.
  """

  def __init__(self, mirror: bucket.Mirror):
    self._mirror = mirror
    self._store = mirror.store
    self._token = secrets.token_hex(16)
    self._content = json.dumps({'token': self._token, 'process': _identity(os.getpid())}).encode()
    self._is_lost = False
    self._closed = threading.Event()
    self._writing = threading.Lock()
    with bucket.report_outages(mirror.address):
      self._generation = self._acquire()
    self._thread = threading.Thread(target=self._renew_often, daemon=True)
    self._thread.start()
    mirror.lock = self

  def __enter__(self) -> 'BucketLock':
    return self

  def __exit__(self, kind, error, trace):
    if bucket.describe_outage(error):  # the bucket is not waited for again; the lock grows stale
      self._stop()
    else:
      self.close()

  def check(self):
    """Renews the lock; raises UserError if another process has taken over the run."""
    with bucket.report_outages(self._mirror.address):
      self._renew()
    if self._is_lost:
      raise UserError(
        f'{self._mirror.address}: another process has taken over this run, since this one could not renew its lock for '
        f'{STALE:g} seconds; this one stops, and what it saved is whole'
      )

  def close(self):
    """Copies the mirror's last changes to the bucket and gives the lock back."""
    try:
      if not self._is_lost:
        self._mirror.push()
    finally:
      self._stop()
      with bucket.report_outages(self._mirror.address):
        self._store.write(NAME, None, if_equal=self._generation).result()

  def _stop(self):
    self._mirror.lock = None
    self._closed.set()
    self._thread.join()

  def _acquire(self) -> bytes:
    """Writes the lock; returns its generation."""
    found = self._store.read(NAME).result()
    seen = found.stamp.generation
    until = time.monotonic() + STALE
    while found.state == 'value' and not _is_gone(found.value) and time.monotonic() < until:
      if until - time.monotonic() > STALE - 0.1:
        say(f'{self._mirror.address}: waiting up to {STALE:g} s for a sign of the process that has locked this run')
      time.sleep(min(1, STALE / 10))
      found = self._store.read(NAME).result()
      if found.state == 'value' and found.stamp.generation != seen:
        raise self._taken_error()
    if generation := self._write(found.stamp.generation):
      return generation
    raise self._taken_error()

  def _taken_error(self) -> UserError:
    return UserError(
      f'--workdir={self._mirror.address}: another process is training there; wait for it or choose another folder'
    )

  def _write(self, expected: bytes) -> bytes:
    """Writes the lock if its generation is still `expected`; returns the new generation, or b'' if it is not ours."""
    written = self._store.write(NAME, self._content, if_equal=expected).result().generation
    if written:
      return written
    found = self._store.read(NAME).result()  # the answer to a write that succeeded may have been lost
    return found.stamp.generation if found.state == 'value' and _read(found.value).get('token') == self._token else b''

  def _renew(self):
    with self._writing:
      generation = b'' if self._is_lost else self._write(self._generation)
      self._is_lost = not generation
      self._generation = generation or self._generation

  def _renew_often(self):
    while not self._is_lost and not self._closed.wait(RENEW):
      with contextlib.suppress(ValueError):  # an outage; whether the lock is still ours shows when it is over
        self._renew()


def _is_gone(content: bytes) -> bool:
  """Whether the lock was made by a process of this machine that has ended."""
  process: dict[str, Any] = _read(content).get('process') or {}
  ours = _identity(os.getpid())
  if not ours or process.get('machine') != ours['machine'] or not isinstance(process.get('number'), int):
    return False
  return _identity(process['number']) != process


def _read(content: bytes) -> dict:
  try:
    value = json.loads(content)
  except ValueError:
    return {}
  return value if isinstance(value, dict) else {}


def _identity(number: int) -> dict[str, Any] | None:
  """What tells a process of this machine from all others, or None if there is none of this number.

  A container counts as a machine of its own, since it does not see the processes of others.
  """
  try:
    with open('/proc/sys/kernel/random/boot_id', encoding='ascii') as file:
      machine = f'{file.read().strip()} {os.readlink("/proc/self/ns/pid")}'
    with open(f'/proc/{number}/stat', encoding='ascii', errors='replace') as file:
      state, *fields = file.read().rpartition(') ')[2].split()
  except OSError:
    return None
  return None if state == 'Z' else {'machine': machine, 'number': number, 'started': fields[18]}
