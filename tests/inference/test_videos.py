"""Videos: frames there and back at their times, with sound, and played by a browser."""

import contextlib
import http.server
import json
import pathlib
import shutil
import struct
import subprocess
import threading
from unittest import mock
import urllib.parse

import cv2
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import images, videos

NO_AV = 'PyAV is not installed'
needs_av = pytest.mark.skipif(videos.suffix() == '.webm', reason=NO_AV)
SUFFIXES = ['.webm', pytest.param('.mp4', marks=needs_av)]
COLORS = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]


def plain(color, size=(48, 64)):
  return np.full((*size, 3), color, np.uint8)


def written(path, times=(0, 0.1, 0.2), sound_of=None):
  """A video with a frame of each colour at these times."""
  with videos.VideoWriter(path, 10, sound_of) as writer:
    for color, seconds in zip(COLORS, times):
      writer.write(plain(color), seconds)
  return path


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_frames_of_a_video_and_back(tmp_path, suffix):
  path = tmp_path / 'new' / f'walk{suffix}'
  with videos.VideoWriter(path, 10) as writer:
    for color in COLORS:
      writer.write(plain(color, (47, 63)))  # odd sides are made even
    assert not path.exists()
  assert [p.name for p in path.parent.iterdir()] == [path.name]
  video = images.Video(path)
  assert (video.length, video.rate) == (3, 10)
  for _ in range(2):  # anew each time
    for frame, color in zip(video, COLORS, strict=True):
      assert frame.shape == (48, 64, 3)
      np.testing.assert_allclose(frame.mean((0, 1)), color, atol=12)
  assert video.seconds == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_video_that_could_not_be_finished_is_not_there(tmp_path, suffix):
  with pytest.raises(KeyboardInterrupt), videos.VideoWriter(tmp_path / f'walk{suffix}', 10) as writer:
    writer.write(plain(COLORS[0]))
    raise KeyboardInterrupt
  assert not list(tmp_path.iterdir())


def test_frames_are_repeated_where_the_rate_is_constant(tmp_path):
  video = images.Video(written(tmp_path / 'walk.webm', (0, 0.1, 0.5)))
  colors = [int(frame.mean((0, 1)).argmax()) for frame in video]
  assert colors == [0, 1, 1, 1, 1, 2]


def test_a_constant_rate_bounds_how_often_frames_are_repeated(tmp_path):
  times = (0, 0.1, 60)
  for rate, shown in ((1000, 60), (0.05, 10)):
    path = tmp_path / f'{shown}.webm'
    with videos.VideoWriter(path, rate) as writer:
      for color, seconds in zip(COLORS, times):
        writer.write(plain(color), seconds)
    assert writer.describe_cut() == (
      f'{path}: 58 s shorter than the video: WebM repeats a frame for at most 2 s; pip install av, and frames keep their '
      'times'
    )
    video = images.Video(path)
    colors = [int(frame.mean((0, 1)).argmax()) for frame in video]
    assert video.rate == shown
    assert [colors.count(i) for i in range(3)] == [0.1 * shown, 2 * shown, 1]


@needs_av
def test_frames_keep_their_times_at_any_rate(tmp_path):
  with videos.VideoWriter(tmp_path / 'walk.mp4', 1000) as writer:
    for color, seconds in zip(COLORS, (0, 0.1, 50)):
      writer.write(plain(color), seconds)
  assert writer.describe_cut() == ''
  video = images.Video(tmp_path / 'walk.mp4')
  np.testing.assert_allclose([video.seconds for _ in video], [0, 0.1, 50], atol=1e-3)


@needs_av
def test_frames_keep_their_times(tmp_path):
  video = images.Video(written(tmp_path / 'walk.mp4', (0, 0.1, 0.7)))
  times = [video.seconds for _ in video]
  np.testing.assert_allclose(times, [0, 0.1, 0.7], atol=1e-3)


def test_files_without_times_have_a_constant_rate(tmp_path, monkeypatch):
  video = images.Video(written(tmp_path / 'walk.webm'))

  class Timeless:
    """A capture whose clock stands still, then leaps."""

    def __init__(self, capture):
      self.capture = capture
      self.clock = iter([0, 0, 1e12])

    def __getattr__(self, name):
      return getattr(self.capture, name)

    def get(self, field):
      return next(self.clock) if field == cv2.CAP_PROP_POS_MSEC else self.capture.get(field)

  capture = Timeless(video._open())
  monkeypatch.setattr(video, '_open', lambda: capture)
  np.testing.assert_allclose([video.seconds for _ in video], [0, 0.1, 0.2])


def test_videos_of_a_turned_phone_are_upright(tmp_path):
  """The header of an MP4 file says by which matrix to turn it."""
  path = tmp_path / 'phone.mp4'
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), 10, (64, 48))
  picture = plain((0, 0, 0))
  picture[:10] = 255  # the upper edge, which turns to the right
  writer.write(picture)
  writer.release()
  upright, turned = (
    struct.pack('>9i', *(n << 16 for n in m[:8]), 1 << 30)
    for m in ([1, 0, 0, 0, 1] + [0] * 3, [0, 1, 0, -1, 0] + [0] * 3)
  )
  content = path.read_bytes()
  place = content.index(upright, content.index(b'tkhd'))
  path.write_bytes(content[:place] + turned + content[place + len(turned) :])
  (frame,) = images.Video(path)
  assert frame.shape == (64, 48, 3)
  assert frame[:, -8:].mean() > 200
  assert frame[:, :-12].mean() < 50


def test_without_pyav_mp4_is_refused_in_a_sentence(tmp_path, monkeypatch):
  monkeypatch.setattr(videos.importlib.util, 'find_spec', lambda name: None)
  assert videos.suffix() == '.webm'
  assert videos.describe_lost_sound(tmp_path / 'any.mp4') == ''
  with pytest.raises(UserError, match=r'walk.mp4: MP4 needs PyAV; pip install av, or name it .webm'):
    videos.VideoWriter(tmp_path / 'walk.mp4', 10)


def test_an_opencv_that_cannot_write_says_so(tmp_path, monkeypatch):
  writer = mock.Mock(return_value=mock.Mock(isOpened=lambda: False))
  monkeypatch.setattr(videos.cv2, 'VideoWriter', writer)
  with pytest.raises(UserError, match='walk.webm: cannot be written as a video: OpenCV has no VP8 here'):
    written(tmp_path / 'walk.webm')
  assert not list(tmp_path.iterdir())


# --- Sound -----------------------------------------------------------------------------------


def with_sound(path, codec):
  """A video of 0.3 seconds with a tone as long; video and sound start at 1.5 seconds."""
  import av

  with av.open(str(path), 'w') as file:
    video = file.add_stream('mpeg4', rate=10)
    video.width, video.height, video.pix_fmt = 64, 48, 'yuv420p'
    sound = file.add_stream(codec, rate=48000)
    for n in range(3):
      frame = av.VideoFrame.from_ndarray(plain(COLORS[n]), format='rgb24')
      frame.pts = 15 + n
      file.mux(video.encode(frame))
    file.mux(video.encode(None))
    tone = np.sin(np.arange(14400) / 20).astype(np.float32)
    samples = tone[None] if codec == 'aac' else (tone[None] * 2**15).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples, format='fltp' if codec == 'aac' else 's16', layout='mono')
    frame.sample_rate = 48000
    frame.pts = 72000
    file.mux(sound.encode(frame))
    file.mux(sound.encode(None))
  return path


def sound_packets(path):
  import av

  with av.open(str(path)) as file:
    return [(float(p.pts * p.time_base), bytes(p)) for p in file.demux(audio=0) if p.pts is not None]


@needs_av
def test_sound_is_copied_and_stays_with_its_frames(tmp_path):
  source = with_sound(tmp_path / 'in.mkv', 'aac')
  assert videos.describe_lost_sound(source) == ''
  given, got = sound_packets(source), sound_packets(written(tmp_path / 'out.mp4', sound_of=source))
  assert len(given) > 10
  assert [data for _, data in got] == [data for _, data in given]
  np.testing.assert_allclose([t for t, _ in got], [t - 1.5 for t, _ in given], atol=2e-3)


@needs_av
def test_sound_ends_with_the_frames(tmp_path):
  source = with_sound(tmp_path / 'in.mkv', 'aac')
  written(tmp_path / 'out.mp4', (0,), source)
  assert 0.05 < sound_packets(tmp_path / 'out.mp4')[-1][0] < 0.1


@needs_av
def test_sound_that_does_not_play_in_mp4_is_left_out(tmp_path):
  source = with_sound(tmp_path / 'in.mkv', 'pcm_s16le')
  assert videos.describe_lost_sound(source) == (f'{source}: its sound (pcm_s16le) does not play in MP4 and is left out')
  assert list(images.Video(written(tmp_path / 'out.mp4', sound_of=source)))


@needs_av
def test_files_without_sound(tmp_path):
  source = written(tmp_path / 'in.mp4')
  (tmp_path / 'bad.mp4').write_bytes(b'no video at all')
  for file in (source, tmp_path / 'bad.mp4'):
    assert videos.describe_lost_sound(file) == ''
    assert len(list(images.Video(written(tmp_path / 'out.mp4', sound_of=file)))) == 3


# --- A browser -------------------------------------------------------------------------------


PAGE = """<video id=video muted></video><script>
const video = document.getElementById('video');
const report = x => fetch('/report?' + encodeURIComponent(JSON.stringify(x)));
video.onerror = () => report(video.error.message);
video.ontimeupdate = () => {
  if (video.currentTime < 0.15 || video.readyState < 2) return;
  video.ontimeupdate = null;
  const canvas = document.createElement('canvas').getContext('2d');
  canvas.drawImage(video, 0, 0);
  const pixel = Array.from(canvas.getImageData(30, 20, 1, 1).data).slice(0, 3);
  report({width: video.videoWidth, height: video.videoHeight, duration: video.duration, pixel});
};
video.src = '/video';
video.play();
</script>"""


def play(chromium, path, profile):
  """What a page in Chromium reports of a video that it plays."""
  reports = []
  done = threading.Event()

  class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
      pass

    def do_GET(self):
      route, _, query = self.path.partition('?')
      if route == '/report':
        reports.append(json.loads(urllib.parse.unquote(query)))
        done.set()
      body = path.read_bytes() if route == '/video' else PAGE.encode()
      self.send_response(200)
      self.send_header('Content-Type', f'video/{path.suffix[1:]}' if route == '/video' else 'text/html')
      self.send_header('Content-Length', str(len(body)))
      self.end_headers()
      with contextlib.suppress(ConnectionError):
        self.wfile.write(body)

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ['--headless=new', '--no-sandbox', '--disable-gpu', '--autoplay-policy=no-user-gesture-required']
    command = [chromium, *flags, f'--user-data-dir={profile}', f'http://127.0.0.1:{server.server_port}/']
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done.wait(60)
    browser.terminate()
    browser.wait()
    server.shutdown()
  return reports[0] if reports else 'nothing'


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_browser_plays_it(tmp_path, suffix):
  chromium = shutil.which('chromium')
  if not chromium:
    pytest.skip('Chromium is not installed')
  path = tmp_path / f'walk{suffix}'
  with videos.VideoWriter(path, 10) as writer:
    for n in range(20):
      writer.write(plain((200, 60, 20)), n / 10)
  report = play(chromium, pathlib.Path(path), tmp_path / 'profile')
  assert (report['width'], report['height']) == (64, 48)
  assert report['duration'] == pytest.approx(2, abs=0.15)
  np.testing.assert_allclose(report['pixel'], (200, 60, 20), atol=8)
