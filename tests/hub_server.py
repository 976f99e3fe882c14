"""A server on this machine that speaks as much of the Hugging Face Hub's protocol as its client needs.

Repositories live in memory, as {commit: {path: bytes}}; weights go the way of large files (LFS).
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import socket
import threading
from urllib.parse import unquote, urlsplit

TOKEN = 'hf_secret'


class Repo:
  """A repository: its commits in order, who may read it, and what its listing claims."""

  def __init__(self, files: dict[str, bytes] | None = None, private: bool = False):
    self.private = private
    self.commits: dict[str, dict[str, bytes]] = {}
    self.claims: dict[str, int] = {}  # sizes that the listing gives instead of the true ones
    self.commit(files or {})

  def commit(self, files: dict[str, bytes]) -> str:
    sha = hashlib.sha1(f'{len(self.commits)}{sorted(files)}'.encode()).hexdigest()
    self.commits[sha] = files
    return sha

  @property
  def head(self) -> str:
    return list(self.commits)[-1]

  @property
  def files(self) -> dict[str, bytes]:
    return self.commits[self.head]

  def find(self, revision: str) -> str | None:
    return self.head if revision == 'main' else revision if revision in self.commits else None


class Server(http.server.ThreadingHTTPServer):
  """The Hub, with its `repos`; `truncated` files are sent by half, `requests` are those that came."""

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.connections: list[socket.socket] = []
    self.repos: dict[str, Repo] = {}
    self.requests: list[str] = []
    self.truncated: set[str] = set()
    self.stored: dict[str, bytes] = {}  # LFS objects by sha256
    self.status = 0  # answers everything with it
    self.url = f'http://127.0.0.1:{self.server_port}'
    threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

  def stop(self):
    """No network: later requests are refused."""
    self.shutdown()
    self.server_close()
    for connection in self.connections:  # that the client keeps open
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

  def process_request(self, request, client_address):
    self.connections.append(request)
    super().process_request(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  server: Server

  def log_message(self, *args):
    pass

  def do_GET(self):
    self.answer()

  do_HEAD = do_POST = do_PUT = do_GET

  def answer(self):
    path = unquote(urlsplit(self.path).path)
    self.server.requests.append(f'{self.command} {path}')
    body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    token = (self.headers.get('Authorization') or '').removeprefix('Bearer ')
    if self.server.status:
      return self.fail(self.server.status)
    if token and token != TOKEN:
      return self.fail(401, message='Invalid credentials in Authorization header')
    if path == '/api/validate-yaml':
      return self.send({'errors': [], 'warnings': []})
    if path == '/api/repos/create':
      return self.create(json.loads(body), token)
    if match := re.fullmatch(r'/lfs/(\w+)', path):
      self.server.stored[match[1]] = body
      return self.send({})
    for pattern, method in (
      (r'/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?', self.info),
      (r'/api/models/([\w.-]+/[\w.-]+)/tree/([^/]+)', self.tree),
      (r'/api/models/([\w.-]+/[\w.-]+)/preupload/(\w+)', self.preupload),
      (r'/api/models/([\w.-]+/[\w.-]+)/commit/(\w+)', self.commit),
      (r'/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/(batch)', self.batch),
      (r'/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)', self.resolve),
    ):
      if match := re.fullmatch(pattern, path):
        repo = self.server.repos.get(match[1])
        if repo is None or (repo.private and not token):
          return self.fail(401 if not token else 404, 'RepoNotFound')
        if self.command in ('POST', 'PUT') and not token:
          return self.fail(401, message='Invalid username or password.')
        sha = repo.find(match[2] or 'main') if match[2] != 'batch' else repo.head
        return method(repo, sha, body, *match.groups()[2:]) if sha else self.fail(404, 'RevisionNotFound')
    self.fail(404)

  def create(self, wanted: dict, token: str):
    if not token:
      return self.fail(401, message='Invalid username or password.')
    name = f'{wanted.get("organization") or "me"}/{wanted["name"]}'
    if not name.startswith('me/'):
      return self.fail(403, message='You have no rights there')
    private = wanted.get('private') or wanted.get('visibility') == 'private'
    self.server.repos[name] = Repo({'.gitattributes': b''}, bool(private))
    self.send({'url': f'{self.server.url}/{name}', 'name': name, 'id': name})

  def info(self, repo, sha, body):
    siblings = [{'rfilename': path} for path in repo.commits[sha]]
    self.send({'id': 'x', 'modelId': 'x', 'sha': sha, 'private': repo.private, 'siblings': siblings, 'tags': []})

  def tree(self, repo, sha, body):
    self.send(
      [
        {'type': 'file', 'oid': hashlib.sha1(data).hexdigest(), 'size': repo.claims.get(path, len(data)), 'path': path}
        for path, data in repo.commits[sha].items()
      ]
    )

  def resolve(self, repo, sha, body, path):
    if path not in repo.commits[sha]:
      return self.fail(404, 'EntryNotFound')
    data = repo.commits[sha][path]
    headers = {'ETag': f'"{hashlib.sha256(data).hexdigest()}"', 'X-Repo-Commit': sha}
    cut = len(data) // 2 if path in self.server.truncated and self.command == 'GET' else len(data)
    self.send(data[:cut], headers | {'Content-Length': str(len(data))})
    if cut < len(data):
      self.wfile.flush()
      self.connection.shutdown(socket.SHUT_RDWR)
      self.close_connection = True

  def preupload(self, repo, sha, body):
    files = json.loads(body)['files']
    mode = {True: 'lfs', False: 'regular'}
    self.send({'files': [dict(path=f['path'], uploadMode=mode['/d/' in f['path']], shouldIgnore=False) for f in files]})

  def batch(self, repo, sha, body):
    objects = json.loads(body)['objects']
    for item in objects:
      item['actions'] = {'upload': {'href': f'{self.server.url}/lfs/{item["oid"]}', 'header': {}}}
    self.send({'transfer': 'basic', 'objects': objects})

  def commit(self, repo, sha, body):
    files = dict(repo.files)
    for line in map(json.loads, body.splitlines()):
      value = line['value']
      match line['key']:
        case 'file':
          files[value['path']] = base64.b64decode(value['content'])
        case 'lfsFile':
          files[value['path']] = self.server.stored[value['oid']]
        case 'deletedFile':
          del files[value['path']]
    oid = repo.commit(files)
    name = next(name for name, other in self.server.repos.items() if other is repo)
    self.send(
      {'success': True, 'commitOid': oid, 'commitUrl': f'{self.server.url}/{name}/commit/{oid}', 'hookOutput': ''}
    )

  def fail(self, status: int, code: str = '', message: str = ''):
    headers = {name: text for name, text in (('X-Error-Code', code), ('X-Error-Message', message)) if text}
    self.send({'error': message or code}, headers, status)

  def send(self, content, headers=None, status: int = 200):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    self.send_response(status)
    for name, value in (
      {'Content-Length': str(len(data)), 'Content-Type': 'application/json'} | (headers or {})
    ).items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(data)
