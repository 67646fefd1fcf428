"""Decode images once and correctly, and keep any number of them on disk.

The store of one size has two files that only grow: images-<size>-<code>.uint8 holds the decoded images one after
another, and the .txt file beside it the SHA-256 of each image's file. An image is found by the content of its file, so
renamed files, other folders and added photos decode no image again. The next run overwrites incomplete images that an
interrupted run left at the end. Another version of this code or of Pillow may decode differently, so it has its own
store.
"""

import fcntl
import hashlib
import io
import itertools
import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from leaves.planning import end_plan
from leaves.progress import tqdm

import numpy as np
import PIL
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # recognised by the content; Pillow's other decoders are not used
INDEX_LINE = 65  # bytes: 64 hex digits and a line end
CODE = hashlib.sha256(Path(__file__).read_bytes() + PIL.__version__.encode()).hexdigest()[:8]


def read_image(content):
    """Decode an image file to its last byte, as a Pillow image in RGB.

    The EXIF tag rotates it upright, 16-bit grey is scaled to 8 bits, and transparent pixels become white.

    Parameters
    ----------
    content : bytes of a file in one of `FORMATS`; its name does not matter

    Raises
    ------
    Exception
        One of Pillow's many types, for a file that is not an image, or is truncated or damaged.
    """
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return upright.convert("RGB")


def shrink_image(image, size):
    """Resize a Pillow image to uint8 of shape (size, size, 3) with an antialiased bicubic filter."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def in_parallel(function, items, count, title):
    """Yield function(item) in order, on all processor cores, with progress; few results are held at a time."""
    items = iter(items)
    with ThreadPoolExecutor() as pool, tqdm(total=count, desc=title, mininterval=2, delay=1) as bar:
        while block := list(itertools.islice(items, 256)):
            for result in pool.map(function, block):
                bar.update()
                yield result


@dataclass(frozen=True)
class StoredImages:
    """Images of the store: read from disk when indexed, otherwise like an array of shape (n, size, size, 3)."""

    pixels: np.memmap
    rows: np.ndarray

    @property
    def shape(self):
        return len(self.rows), *self.pixels.shape[1:]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        images = np.array(self.pixels[self.rows[index]])
        self.pixels._mmap.madvise(mmap.MADV_DONTNEED)  # otherwise pages already read count as used memory
        return images


def store_files(folder, size):
    """Name the two files of a store: pixels and index."""
    return folder / f"images-{size}-{CODE}.uint8", folder / f"images-{size}-{CODE}.txt"


def stored_rows(folder, size):
    """Find the row of each image that is already decoded to size x size: dict of a file's SHA-256 to int."""
    pixels, index = store_files(folder, size)
    if not (pixels.exists() and index.exists()):
        return {}
    whole = min(pixels.stat().st_size // (size * size * 3), index.stat().st_size // INDEX_LINE)
    return {name: row for row, name in enumerate(index.read_text().split()[:whole])}


def store_images(folder, size, decoded):
    """Append decoded images to the store one by one, so memory does not grow with their number.

    Parameters
    ----------
    decoded : iterable of (SHA-256 of the file, uint8 array of shape (size, size, 3))

    Raises
    ------
    OSError
        When the disk is full; images already written stay in the store.
    """
    end_plan("decoded photos")
    folder.mkdir(parents=True, exist_ok=True)
    pixels, index = store_files(folder, size)
    with open(pixels, "ab") as images, open(index, "ab") as names:
        fcntl.flock(images, fcntl.LOCK_EX)  # another process may be writing to it
        rows = stored_rows(folder, size)
        images.truncate(len(rows) * size * size * 3)
        names.truncate(len(rows) * INDEX_LINE)
        for sha256, image in decoded:
            if sha256 not in rows:
                rows[sha256] = len(rows)
                images.write(image.tobytes())
                names.write(f"{sha256}\n".encode())


def open_images(folder, size, sha256):
    """Open the stored images of the files with these SHA-256 as `StoredImages`; KeyError if one is not stored."""
    rows = stored_rows(folder, size)
    pixels = np.memmap(store_files(folder, size)[0], np.uint8, "r", shape=(len(rows), size, size, 3))
    return StoredImages(pixels, np.array([rows[name] for name in sha256], int))
