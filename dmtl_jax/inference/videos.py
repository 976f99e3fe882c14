"""Videos that browsers play: H.264 in MP4 with sound by PyAV where it is installed, else VP8 in WebM by OpenCV."""

from collections.abc import Iterator
import contextlib
import fractions
import importlib.util
import itertools
import os
import pathlib
from typing import Any

import cv2
import numpy as np

from dmtl_jax.basics import atomic
from dmtl_jax.basics.errors import UserError

TICKS = 90_000  # per second: whole numbers for 24, 25, 30 and 29.97 frames per second
SOUND_CODECS = ('aac', 'mp3', 'opus', 'flac')  # those that browsers play in an MP4 file
# Without B-frames: with them the header's duration is wrong if the time between frames varies. In 'veryfast' a frame of
# 1280x1024 takes 0.055 s on two cores, in 'medium' 0.17 s, while VP8 takes 0.26 s.
H264 = {'preset': 'veryfast', 'crf': '20', 'bf': '0'}
# Limits of WebM files, whose frames come at a constant rate here: frames per second, and seconds that a frame may last.
# Screen recordings have headers with 1000 frames per second, and frames that last for minutes. At 960x720 a repetition
# takes 0.02 s.
RATES = (10.0, 60.0)
LONGEST_FRAME = 2.0
BT709 = 1  # as FFmpeg numbers the matrix, the primaries and the transfer curve of HD video


def suffix() -> str:
  """The suffix of the videos that can be written: '.mp4' if PyAV is installed, else '.webm'."""
  return '.mp4' if importlib.util.find_spec('av') else '.webm'


def describe_lost_sound(path: pathlib.Path) -> str:
  """A sentence if a video has sound that `VideoWriter` cannot copy; '' if it can, or there is none."""
  if suffix() == '.webm':
    return ''  # OpenCV cannot tell whether there is any
  with contextlib.closing(_Sound(path)) as sound:
    lost = sound.codec and not sound.stream
  return f'{path}: its sound ({sound.codec}) does not play in MP4 and is left out' if lost else ''


class VideoWriter:
  """Writes frames, uint8 [H, W, 3] RGB of one size, to a video file that appears at the end of the `with` block.

  Odd sides are made even by repeating the last row or column, as the codecs need.

  Args:
    path: ends in '.mp4' or '.webm', see `suffix`.
    rate: frames per second.
    sound_of: video whose sound is copied, if PyAV writes and `SOUND_CODECS` has its codec.

  Raises:
    UserError: the file cannot be written as a video.
  """

  def __init__(self, path: pathlib.Path, rate: float, sound_of: pathlib.Path | None = None):
    if path.suffix == '.mp4' and suffix() != '.mp4':
      raise UserError(f'{path}: MP4 needs PyAV; pip install av, or name it .webm')
    self._path = path
    self._rate = rate
    self._sound_of = sound_of
    self._count = 0
    self._encoder: _H264 | _Vp8 | None = None
    self._stack = contextlib.ExitStack()

  def write(self, frame: np.ndarray, seconds: float | None = None):
    """Writes a frame that is shown from `seconds` on, where 0 is the first; by default at the constant rate."""
    to_even = [(0, side % 2) for side in frame.shape[:2]]
    frame = np.pad(frame, [*to_even, (0, 0)], mode='edge')
    if self._encoder is None:
      temporary = self._stack.enter_context(atomic.atomic_path(self._path, f'.tmp{self._path.suffix}'))
      self._stack.callback(self._close)
      encoder = _H264 if self._path.suffix == '.mp4' else _Vp8
      with self._reported():
        self._encoder = encoder(temporary, self._rate, frame.shape[:2], self._sound_of)
    with self._reported():
      self._encoder.write(frame, self._count / self._rate if seconds is None else seconds)
    self._count += 1

  def describe_cut(self) -> str:
    """A sentence if frames that are shown for long were cut to `LONGEST_FRAME`; else ''."""
    if self._encoder is None or not self._encoder.cut:
      return ''
    return (
      f'{self._path}: {self._encoder.cut:.0f} s shorter than the video: WebM repeats a frame for at most '
      f'{LONGEST_FRAME:g} s; pip install av, and frames keep their times'
    )

  def __enter__(self):
    return self

  def __exit__(self, *error):
    return self._stack.__exit__(*error)

  def _close(self):
    if self._encoder is not None:
      with self._reported():
        self._encoder.close()

  @contextlib.contextmanager
  def _reported(self) -> Iterator[None]:
    try:
      yield
    except (UserError, OSError):  # a full disk, which the command line reports
      raise
    except Exception as error:  # PyAV has a class of its own for each of FFmpeg's errors
      raise UserError(f'{self._path}: cannot be written as a video: {error}') from error


class _H264:
  """Encodes by PyAV."""

  cut = 0.0  # frames keep their times

  def __init__(self, path: str, rate: float, size: tuple[int, int], sound_of: pathlib.Path | None):
    import av

    self._file = av.open(path, 'w', format='mp4', options={'movflags': '+faststart'})  # plays before it is loaded whole
    self._stream = self._file.add_stream(
      'libx264', rate=fractions.Fraction(rate).limit_denominator(TICKS), options=H264
    )
    self._stream.height, self._stream.width = size
    self._stream.pix_fmt = 'yuv420p'
    codec = self._stream.codec_context
    codec.time_base = fractions.Fraction(1, TICKS)
    codec.colorspace = codec.color_primaries = codec.color_trc = BT709  # else players guess, and colours differ
    codec.color_range = av.video.reformatter.ColorRange.MPEG
    self._step = 1 / rate
    self._end = -1  # tick of the last frame
    self._sound = _Sound(sound_of) if sound_of else None
    self._packets: Iterator = iter(())
    if self._sound and self._sound.stream:
      self._packets = self._sound.packets(self._file.add_stream_from_template(self._sound.stream))

  def write(self, frame: np.ndarray, seconds: float):
    import av
    from av.video.reformatter import ColorRange, Colorspace

    picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
    picture = picture.reformat(format='yuv420p', dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
    self._end = max(round(seconds * TICKS), self._end + 1)
    picture.pts = self._end
    picture.time_base = fractions.Fraction(1, TICKS)
    self._file.mux(self._stream.encode(picture))
    self._copy_sound(self._end / TICKS)

  def close(self):
    try:
      self._file.mux(self._stream.encode(None))
      self._copy_sound(self._end / TICKS + self._step)
    finally:
      self._file.close()
      if self._sound:
        self._sound.close()

  def _copy_sound(self, seconds: float):
    """Copies the sound up to a time, so that it lies in the file beside the frames that it belongs to."""
    for start, packet in self._packets:
      if start >= seconds:
        self._packets = itertools.chain([(start, packet)], self._packets)
        break
      self._file.mux(packet)


class _Sound:
  """The sound of a video, as packets to copy.

  Attributes:
    codec: name of its codec, or '' if the file has none that can be read.
    stream: its stream, or None if it cannot be copied into an MP4 file.
  """

  def __init__(self, path: pathlib.Path):
    import av

    self.codec = ''
    self.stream = None
    self._file: Any = None
    with contextlib.suppress(av.FFmpegError):
      self._file = av.open(os.path.abspath(path))
      streams = self._file.streams
      if streams.audio and streams.video:
        self.codec = streams.audio[0].codec.canonical_name
        start = streams.video[0].start_time
        self._start = float(start * streams.video[0].time_base) if start else 0.0  # as frames count from the first
        self.stream = streams.audio[0] if self.codec in SOUND_CODECS else None

  def close(self):
    if self._file:
      self._file.close()

  def packets(self, target) -> Iterator[tuple]:
    """(seconds since the first frame, packet for the stream `target`), up to the end or the first damage."""
    import av

    with contextlib.suppress(av.FFmpegError):
      for packet in self._file.demux(self.stream):
        if packet.pts is None or packet.dts is None:  # the last, empty one
          continue
        shift = round(self._start / packet.time_base)
        packet.pts -= shift
        packet.dts -= shift
        packet.stream = target
        yield float(packet.pts * packet.time_base), packet


class _Vp8:
  """Encodes by OpenCV, without sound and at a constant rate within `RATES`: a frame that lasts longer is repeated.

  Attributes:
    cut: seconds that were left out, since frames lasted longer than `LONGEST_FRAME`.
  """

  def __init__(self, path: str, rate: float, size: tuple[int, int], sound_of):
    del sound_of
    self._rate = min(max(rate, RATES[0]), RATES[1])
    self._count = 0
    self._last = 0.0  # when the last frame is shown from
    self.cut = 0.0
    self._frame: np.ndarray | None = None  # shown from now on
    with _without_stderr():  # OpenCV says that it chose the tag of the codec by itself
      self._video = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*'VP80'), self._rate, size[::-1])
    if not self._video.isOpened():
      raise RuntimeError('OpenCV has no VP8 here; pip install av')

  def write(self, frame: np.ndarray, seconds: float):
    self.cut += max(seconds - self._last - LONGEST_FRAME, 0)
    self._last = seconds
    self._fill(round((seconds - self.cut) * self._rate))
    self._frame = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)

  def close(self):
    self._fill(self._count + 1)
    self._video.release()

  def _fill(self, end: int):
    while self._frame is not None and self._count < end:
      self._video.write(self._frame)
      self._count += 1


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
  """Drops what libraries write to the standard error stream in the block."""
  kept = os.dup(2)
  null = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(null, 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(null)
