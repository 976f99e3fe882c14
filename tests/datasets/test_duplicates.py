"""Copies of photographs are recognised, and similar photographs are not taken for copies."""

import cv2
import numpy as np
import pytest

from dmtl_jax.basics.photographs import read_image
from dmtl_jax.datasets import duplicates
from tests.tiny import shared


def picture(seed: int) -> np.ndarray:
  coarse = np.random.default_rng(seed).integers(60, 200, (12, 16, 3), dtype=np.uint8)
  return cv2.resize(coarse, (256, 192), interpolation=cv2.INTER_CUBIC)


def numbers(images) -> list[int]:
  return duplicates.pictures(np.stack([duplicates.thumbnail(image) for image in images])).tolist()


def recompressed(image):
  return cv2.imdecode(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize('copy', [
    recompressed,
    lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    lambda image: cv2.resize(image, None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC),
    lambda image: recompressed(cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)),
])  # fmt: skip
def test_resized_and_recompressed_copies_are_the_same_picture(copy):
  images = [picture(seed) for seed in range(20)]
  found = numbers([*images, *map(copy, images)])
  assert found[:20] == found[20:]
  assert len(set(found)) == 20


def test_a_picture_may_have_any_number_of_copies():
  found = numbers(
    [picture(0)] * 100 + [picture(1)] + [np.clip(picture(0), 0, 254) + np.uint8(n % 2) for n in range(50)]
  )
  assert len({*found[:100], *found[101:]}) == 1
  assert found[100] != found[0]


def test_plain_images_are_no_copies_of_each_other():
  rng = np.random.default_rng(0)
  assert len(set(numbers([np.uint8(200 + rng.integers(0, 3, (48, 64, 3))) for _ in range(5)]))) == 5
  assert len(set(numbers([np.full((48, 64, 3), 255, np.uint8)] * 3))) == 3


def test_neighbouring_frames_of_a_video_are_different_pictures():
  paths = sorted(shared('data/camvid').glob('*/images/0016E5*.jpg'))
  assert len(set(numbers(map(read_image, paths)))) == len(paths) > 150
