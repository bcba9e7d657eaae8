"""Image headers: sizes and orientations without decoding."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from labelenc.data.coco import decode_image
from labelenc.data.headers import read_header, to_stored


def _with_orientation(image: Image.Image, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
def test_size_as_opencv_decodes_it(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (31, 17)).save(path)
    header = read_header(path)
    assert (header.width, header.height, header.orientation) == (31, 17, 1)
    assert decode_image(str(path)).shape[1::-1] == (header.width, header.height)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_orientation_and_stored_size(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    image = Image.new("RGB", (31, 17))
    image.save(path, **_with_orientation(image, 6))
    header = read_header(path)
    assert (header.width, header.height, header.orientation, header.sideways) == (31, 17, 6, True)
    assert decode_image(str(path)).shape[1::-1] == (31, 17)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_no_pixel_is_decoded(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    # A decoder would complain of the missing rest.
    path.write_bytes(path.read_bytes()[:2000])
    assert (read_header(path).width, read_header(path).height) == (200, 300)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_follow_the_picture(tmp_path, orientation):
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5:12, 30:50] = 255
    path = tmp_path / "photo.png"
    image = Image.fromarray(stored)
    image.save(path, **_with_orientation(image, orientation))
    with Image.open(path) as opened:
        shown = np.array(ImageOps.exif_transpose(opened))
    rows, columns = np.nonzero(shown[..., 0])
    corners = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=float)
    normalised = corners / ([*shown.shape[1::-1]] * 2)
    assert to_stored(normalised, orientation) * [60, 40, 60, 40] == pytest.approx(np.array([[30, 5, 50, 12]]))


def test_tiff_is_turned_by_its_decoder(tmp_path):
    path = tmp_path / "image.tif"
    image = Image.new("RGB", (31, 17))
    image.save(path, **_with_orientation(image, 6))
    header = read_header(path)
    assert (header.width, header.height, header.orientation) == (17, 31, 1)
    assert decode_image(str(path)).shape[1::-1] == (17, 31)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"x" * 25, b"\xff\xd8\xff"])
def test_damaged_headers(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        read_header(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "gone.jpg")
