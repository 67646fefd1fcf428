"""Images read right, whatever their kind, and stored once."""

import hashlib
import io

from leaves import image_store

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

RED, BLUE = (200, 30, 30), (30, 30, 200)


def two_halves():
    """A picture of 60 x 40 pixels: left half red, right half blue."""
    picture = Image.new("RGB", (60, 40), RED)
    ImageDraw.Draw(picture).rectangle((30, 0, 60, 40), fill=BLUE)
    return picture


def saved(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def colours(image):
    """The colours in the middle of the left and the right half."""
    pixels = np.asarray(image).astype(int)
    return pixels[20, 10].tolist(), pixels[20, 50].tolist()


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "P", "RGBA"])
def test_colours_survive(mode):
    image = two_halves().quantize(16) if mode == "P" else two_halves().convert(mode)
    left, right = colours(image_store.read_image(saved(image, "JPEG" if mode == "CMYK" else "PNG")))
    assert left == pytest.approx(RED, abs=12)
    assert right == pytest.approx(BLUE, abs=12)


def test_grey_of_8_and_16_bits_and_of_one():
    grey = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
    for image in (Image.fromarray(grey), Image.fromarray(grey.astype(np.uint16) * 257)):
        read = np.asarray(image_store.read_image(saved(image, "PNG")))
        assert (read == grey[..., None]).all()
    line = image_store.read_image(saved(Image.fromarray(grey > 128), "PNG"))
    assert colours(line) == ([0, 0, 0], [255, 255, 255])


def test_what_is_transparent_lies_on_white_paper():
    image = two_halves().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 30, 40))
    assert colours(image_store.read_image(saved(image, "PNG"))) == ([255, 255, 255], [*BLUE])
    palette = two_halves().quantize(2)
    palette.info["transparency"] = palette.getpixel((10, 20))
    assert colours(image_store.read_image(saved(palette, "PNG")))[0] == [255, 255, 255]


def test_a_photo_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    left, right = colours(image_store.read_image(saved(two_halves(), "JPEG", exif=exif)))
    assert left == pytest.approx(BLUE, abs=12)
    assert right == pytest.approx(RED, abs=12)


def test_shrinking_is_antialiased():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (200, 100)))
    shrunk = image_store.shrink_image(stripes.convert("RGB"), 25)
    assert shrunk.shape == (25, 25, 3)
    assert np.abs(shrunk.astype(int) - 127).max() < 20  # a mere pick of pixels would give 0 or 255


def test_other_decoders_stay_closed():
    with pytest.raises(Image.UnidentifiedImageError):
        image_store.read_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")


# ---------------------------------------------------------------- the store


def picture(number, size=8):
    name = hashlib.sha256(str(number).encode()).hexdigest()
    return name, np.full((size, size, 3), number, np.uint8)


def levels(folder, numbers, size=8):
    """What is stored for these pictures."""
    names = pd.Series([picture(number)[0] for number in numbers])
    return image_store.open_images(folder, size, names)[:][:, 0, 0, 0].tolist()


def test_images_are_found_by_content_and_stored_once(tmp_path):
    image_store.store_images(tmp_path, 8, map(picture, [3, 1, 2]))
    image_store.store_images(tmp_path, 8, map(picture, [2, 4, 3, 4, 5]))
    assert levels(tmp_path, [5, 4, 3, 2, 1]) == [5, 4, 3, 2, 1]
    assert image_store.store_files(tmp_path, 8)[0].stat().st_size == 5 * 8 * 8 * 3
    image_store.store_images(tmp_path, 4, [picture(7, size=4)])
    assert levels(tmp_path, [7], size=4) == [7]


@pytest.mark.parametrize(("file", "lost"), [(0, 100), (1, 30), (1, 70)])
def test_what_was_cut_off_is_written_again(tmp_path, file, lost):
    image_store.store_images(tmp_path, 8, map(picture, range(6)))
    spoilt = image_store.store_files(tmp_path, 8)[file]
    spoilt.write_bytes(spoilt.read_bytes()[:-lost])
    kept = len(image_store.stored_rows(tmp_path, 8))
    assert 4 <= kept < 6
    image_store.store_images(tmp_path, 8, map(picture, range(8)))
    assert levels(tmp_path, range(8)) == list(range(8))


def test_an_interrupted_run_keeps_what_it_stored(tmp_path):
    def until_ctrl_c():
        yield picture(1)
        yield picture(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        image_store.store_images(tmp_path, 8, until_ctrl_c())
    assert levels(tmp_path, [1, 2]) == [1, 2]


def test_few_results_wait_at_a_time():
    taken = []

    def items():
        for number in range(10_000):
            taken.append(number)
            yield number

    results = image_store.in_parallel(lambda number: -number, items(), 10_000, "counting")
    assert next(results) == 0
    assert len(taken) <= 256
    assert sum(results) == -sum(range(10_000))
