"""Downloads against a server in this process; archives made here, some of them hostile."""

import hashlib
import http.server
import threading

import pytest

from dmtl_jax.basics import download
from dmtl_jax.basics.errors import UserError
from tests.archives import Item, tar, zipped

CONTENT = bytes(range(256)) * 9000  # 2.3 MB: more than a block
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves CONTENT, in parts when asked; breaks off after `server.cut` bytes."""

  def do_GET(self):
    wanted = self.headers.get('Range')
    self.server.requests.append(wanted)
    resumes = wanted and self.server.ranges
    start = int(wanted[len('bytes=') : -1]) if resumes else 0
    if start >= len(CONTENT):
      self.send_error(416)
      return
    self.send_response(206 if resumes else 200)
    self.send_header('Content-Length', str(len(CONTENT) - start))
    self.end_headers()
    self.wfile.write(CONTENT[start : start + self.server.cut])

  def log_message(self, *args):
    pass


@pytest.fixture
def server():
  with http.server.HTTPServer(('127.0.0.1', 0), Handler) as server:
    server.requests, server.cut, server.ranges = [], len(CONTENT), True
    server.url = f'http://127.0.0.1:{server.server_port}/data.bin'
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()


def test_downloads_once_and_checks(server, tmp_path):
  path = tmp_path / 'sub' / 'data.bin'
  assert download.download(server.url, path, SHA256) == path
  assert path.read_bytes() == CONTENT
  download.download(server.url, path, SHA256)
  assert server.requests == [None]  # the second call asked nobody
  assert [file.name for file in path.parent.iterdir()] == ['data.bin']


def test_a_broken_connection_is_reported_and_resumed(server, tmp_path):
  path = tmp_path / 'data.bin'
  server.cut = 1_500_000
  with pytest.raises(UserError, match=r'broke after 1500000 of 2304000 bytes; run again'):
    download.download(server.url, path, SHA256)
  assert not path.exists()
  download.download(server.url, path, SHA256)  # the rest is shorter than the cut
  assert server.requests == [None, 'bytes=1500000-']
  assert path.read_bytes() == CONTENT


@pytest.mark.parametrize('part, ranges', [(b'old' * 1000, False), (CONTENT, True)])
def test_a_server_without_ranges_starts_again_and_a_complete_part_is_taken(server, tmp_path, part, ranges):
  server.ranges = ranges
  (tmp_path / 'data.bin.part').write_bytes(part)
  assert download.download(server.url, tmp_path / 'data.bin', SHA256).read_bytes() == CONTENT


def test_a_wrong_file_is_refused_and_removed(server, tmp_path):
  with pytest.raises(UserError, match=f'sha256 is {SHA256}, expected {"0" * 64}'):
    download.download(server.url, tmp_path / 'data.bin', '0' * 64)
  assert not list(tmp_path.iterdir())


def test_unknown_checksum_never_resumes(server, tmp_path):
  (tmp_path / 'data.bin.part').write_bytes(b'of another version')
  path = download.download(server.url, tmp_path / 'data.bin', download.UNKNOWN)
  assert server.requests == [None]
  assert path.read_bytes() == CONTENT


def test_an_unreachable_server_is_one_sentence(tmp_path):
  with pytest.raises(UserError, match=r'http://127\.0\.0\.1:9/x: .*save the file as .*data\.bin'):
    download.download('http://127.0.0.1:9/x', tmp_path / 'data.bin', SHA256)


@pytest.fixture(params=[(tar, 'a.tgz'), (zipped, 'a.zip')], ids=['tar', 'zip'])
def archive(request, tmp_path):
  write, name = request.param
  noise = Item('noise.bin', hashlib.shake_128(b'').digest(1 << 16))
  (tmp_path / name).write_bytes(write([Item('top/one.txt'), Item('top/deep/two.txt', b'22'), noise]))
  return tmp_path / name


def test_unpacks_once(tmp_path, archive):
  stale = tmp_path / 'out.incomplete' / 'stale.txt'
  stale.parent.mkdir()
  stale.write_text('of an interrupted run')
  folder = download.extract(archive, tmp_path / 'out')
  files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*.txt')}
  assert files == {'top/one.txt': b'1', 'top/deep/two.txt': b'22'}
  assert not stale.parent.exists()
  archive.unlink()
  assert download.extract(archive, folder) == folder  # taken as it is


def test_a_cut_archive_is_refused(tmp_path, archive):
  archive.write_bytes(archive.read_bytes()[: 1 << 15])
  with pytest.raises(UserError, match=f'{archive.name}: .*download it again'):
    download.extract(archive, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
