"""A Google Cloud Storage on this machine, in memory, that can fail in the ways that a real one does.

It answers what TensorStore's client, gcsfs and google-cloud-storage ask of the JSON API, and checks the preconditions on
an object's generation, which gcp-storage-emulator (2026.7) does not.
"""

import base64
from collections.abc import Callable
import contextlib
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import itertools
import json
import pathlib
import re
import threading
import time
from typing import Any, NamedTuple
import urllib.parse

BUCKET = 'my-bucket'
PROBLEM = {401: 'Invalid Credentials', 403: 'no permission', 404: 'Not Found', 412: 'precondition', 429: 'slow down'}


class Object(NamedTuple):
  data: bytes
  generation: int


class Bucket:
  """The server, as a context manager that starts it in a thread.

  Attributes:
    objects: {name: Object}.
    fault: called for every request with its number, method and name of the object ('' for none); returns None, or a
      status to answer with instead, 'cut', which takes half of the request and closes the connection, or 'lose', which
      does what is asked and closes the connection without an answer.
  """

  def __init__(self):
    self.requests = 0
    self.reset()
    self.lock = threading.Lock()
    self.uploads: dict[str, str] = {}
    self._generations = itertools.count(1)
    self._server = ThreadingHTTPServer(('127.0.0.1', 0), type('Handler', (_Handler,), {'bucket': self}))
    self._server.daemon_threads = True
    self._server.handle_error = lambda *_: None  # clients close connections, or are killed
    self.address = f'http://127.0.0.1:{self._server.server_address[1]}'

  def __enter__(self):
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *error):
    self._server.shutdown()
    self._server.server_close()

  def reset(self):
    """Empties the bucket; nothing fails any more."""
    self.objects: dict[str, Object] = {}
    self.fault: Callable[[int, str, str], Any] = lambda number, method, name: None

  def environment(self) -> dict[str, str]:
    """The environment variables that lead all clients here."""
    return {
      'STORAGE_EMULATOR_HOST': self.address,
      'TENSORSTORE_GCS_HTTP_URL': self.address,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'x',
      'FSSPEC_GCS_TOKEN': 'anon',
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
      'GOOGLE_CLOUD_PROJECT': 'p',
    }

  def put(self, name: str, data: bytes) -> Object:
    self.objects[name] = Object(data, next(self._generations))
    return self.objects[name]

  def download(self, prefix: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes the objects below a prefix as files."""
    for name, item in self.objects.items():
      if name.startswith(f'{prefix}/'):
        path = folder / name.removeprefix(f'{prefix}/')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.data)
    return folder


class _Handler(BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  wbufsize = 1 << 16  # head and content in one packet: a client would wait 40 ms for the second
  bucket: Bucket

  def _handle(self):
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
    match = re.search(r'/b/([^/]+)(?:/o(?:/(.+))?)?$', url.path)
    name = urllib.parse.unquote(match[2] or '') if match else ''
    name = name or query.get('name', '')
    with self.bucket.lock:
      self.bucket.requests += 1
      fault = self.bucket.fault(self.bucket.requests, self.command, name)
    length = int(self.headers.get('Content-Length') or 0)
    if fault == 'cut':
      self.rfile.read(length // 2)
      return self._drop()
    body = self._chunks() if 'chunked' in self.headers.get('Transfer-Encoding', '') else self.rfile.read(length)
    if isinstance(fault, int):
      return self._fail(fault)
    with self.bucket.lock:
      answer = self._answer(url.path, query, name, body)
    if fault == 'lose':
      return self._drop()
    self._send(*answer)

  do_GET = do_POST = do_PUT = do_DELETE = _handle

  def _answer(self, path: str, query: dict, name: str, body: bytes) -> tuple:
    """(status, content, headers) of a request that nothing befalls."""
    objects = self.bucket.objects
    if upload := query.get('upload_id'):
      return self._resumed(upload, body)
    if f'/b/{BUCKET}' not in path:
      return self._problem(404)
    if path.startswith('/upload/'):
      if query['uploadType'] == 'multipart':
        name, body = _multipart(body)
      wanted = query.get('ifGenerationMatch')
      if wanted is not None and int(wanted) != self._generation(name):
        return self._problem(412)
      if query['uploadType'] == 'resumable':
        name = name or json.loads(body)['name']
        upload = f'u{len(self.bucket.uploads)}'
        self.bucket.uploads[upload] = name
        self.bucket.objects.pop(f'\0{upload}', None)
        return 200, b'{}', {'Location': f'{self.bucket.address}{path}?upload_id={upload}'}
      return self._json(_describe(name, self.bucket.put(name, body)))
    if copied := re.search(r'/o/([^/]+)/(rewrite|move|copy)To/(?:b/[^/]+/)?o/([^/]+)$', path):
      source, target = (urllib.parse.unquote(copied[i]) for i in (1, 3))
      if source not in objects:
        return self._problem(404)
      made = self.bucket.put(target, objects[source].data)
      if copied[2] == 'move':
        del objects[source]
      described = _describe(target, made)
      return self._json({'done': True, 'resource': described} if copied[2] == 'rewrite' else described)
    if not name:
      return self._json(self._list(query)) if path.endswith('/o') else self._json({'name': BUCKET, 'id': BUCKET})
    wanted = query.get('ifGenerationMatch')
    if wanted is not None and int(wanted) != self._generation(name):
      return self._problem(412)
    if name not in objects:
      return self._problem(404)
    if self.command == 'DELETE':
      del objects[name]
      return 204, b'', {}
    if query.get('alt') != 'media' and not path.startswith('/download'):
      return self._json(_describe(name, objects[name]))
    if query.get('ifGenerationNotMatch') == str(objects[name].generation):
      return 304, b'', {}
    return self._media(objects[name])

  def _media(self, item: Object) -> tuple:
    headers = {'x-goog-generation': str(item.generation), 'Content-Type': 'application/octet-stream'}
    if not (part := re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', ''))):
      return 200, item.data, headers
    size = len(item.data)
    if not part[1]:
      first, last = max(size - int(part[2]), 0), size - 1
    else:
      first, last = int(part[1]), min(int(part[2] or size - 1), size - 1)
    if first >= size:
      return 416, b'', {'Content-Range': f'bytes */{size}'}
    return 206, item.data[first : last + 1], headers | {'Content-Range': f'bytes {first}-{last}/{size}'}

  def _list(self, query: dict) -> dict:
    prefix, delimiter = query.get('prefix', ''), query.get('delimiter')
    items, prefixes = [], set()
    for name in sorted(self.bucket.objects):
      if not name.startswith(prefix) or name[0] == '\0':
        continue
      if name < query.get('startOffset', '') or (query.get('endOffset') and name >= query['endOffset']):
        continue
      rest = name[len(prefix) :]
      if delimiter and delimiter in rest:
        prefixes.add(prefix + rest[: rest.index(delimiter) + 1])
      else:
        items.append(_describe(name, self.bucket.objects[name]))
    return {'kind': 'storage#objects', 'items': items, 'prefixes': sorted(prefixes)}

  def _resumed(self, upload: str, body: bytes) -> tuple:
    """A part of a resumable upload."""
    part = re.fullmatch(r'bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)', self.headers.get('Content-Range', ''))
    before = self.bucket.objects.get(f'\0{upload}', Object(b'', 0)).data
    whole = before[: int(part[1])] + body if part and part[1] else before + body
    if part and (part[3] == '*' or len(whole) < int(part[3])):
      self.bucket.put(f'\0{upload}', whole)
      return 308, b'', {'Range': f'bytes=0-{len(whole) - 1}'}
    self.bucket.objects.pop(f'\0{upload}', None)
    name = self.bucket.uploads[upload]
    return self._json(_describe(name, self.bucket.put(name, whole)))

  def _generation(self, name: str) -> int:
    return self.bucket.objects[name].generation if name in self.bucket.objects else 0

  def _chunks(self) -> bytes:
    data = b''
    while size := int(self.rfile.readline().strip() or b'0', 16):
      data += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return data

  def _json(self, value: dict) -> tuple:
    return 200, json.dumps(value).encode(), {'Content-Type': 'application/json'}

  def _problem(self, status: int) -> tuple:
    message = PROBLEM.get(status, 'backend error')
    errors = [{'message': message, 'reason': message}]
    return status, json.dumps({'error': {'code': status, 'message': message, 'errors': errors}}).encode(), {}

  def _fail(self, status: int):
    self._send(*self._problem(status))

  def _send(self, status: int, content: bytes, headers: dict):
    self.send_response(status)
    for key, value in headers.items():
      self.send_header(key, value)
    if status not in (204, 304):
      self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def _drop(self):
    self.close_connection = True

  def finish(self):
    with contextlib.suppress(OSError):  # of a client that was killed
      super().finish()

  def log_message(self, *_):
    pass


def _describe(name: str, item: Object) -> dict:
  """The metadata of an object."""
  sums = {'md5Hash': base64.b64encode(hashlib.md5(item.data).digest()).decode()}
  times = {key: time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(0)) for key in ('timeCreated', 'updated')}
  path = f'/download/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, "")}?alt=media'
  about = {'name': name, 'bucket': BUCKET, 'size': str(len(item.data)), 'generation': str(item.generation)}
  return {'kind': 'storage#object', **about, **sums, **times, 'metageneration': '1', 'mediaLink': path}


def _multipart(body: bytes) -> tuple[str, bytes]:
  """The name and the data of an upload of two parts."""
  boundary = body.split(b'\n', 1)[0].strip()
  about, data = re.split(rb'\r?\n' + re.escape(boundary) + rb'\r?\n', body, maxsplit=1)
  _, _, data = data.replace(b'\r\n\r\n', b'\n\n', 1).partition(b'\n\n')
  end = data.rindex(b'\n' + boundary + b'--')
  return json.loads(about[about.index(b'{') :])['name'], data[: end - (data[end - 1 : end] == b'\r')]
