"""Decode each image once, and keep the decoded images on disk.

Each image size has its own store: two files that only grow. The file images-<size>-<code>.uint8 holds the decoded
images one after another. The .txt file beside it has one line per image: the SHA-256 of the image file and the CRC-32
of the image's pixels, which is checked whenever the pixels are read. <code> is the hash of this module's code and of
Pillow's version, because another version may decode images differently.

The store finds an image by the SHA-256 of its file. So an image is not decoded again if its file is renamed or moved,
or if other photos are added. If an interrupted process left incomplete images at the end of a store, the next process
overwrites them.
"""

import fcntl
import io
import itertools
import mmap
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from leaves.cache import code_hash
from leaves.files import InputError
from leaves.planning import end_plan
from leaves.progress import tqdm

import numpy as np
import PIL
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # recognised by the content; Pillow's other decoders are not used
INDEX_LINE = 74  # bytes: 64 hex digits, a space, 8 hex digits and a line end
CODE = code_hash(Path(__file__), PIL.__version__)


def read_image(content):
    """Decode a complete image file to a Pillow image in RGB.

    The image is rotated upright as its EXIF tag says, 16-bit grey is scaled to 8 bits, and transparent pixels are
    placed on white.

    Parameters
    ----------
    content : bytes of a file in one of `FORMATS`; its name does not matter

    Raises
    ------
    Exception
        Pillow raises many types of exceptions for a file that is not an image, or is truncated or damaged.
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
    """Compute function(item) for all items in parallel threads, yield the results in order, and show a progress bar.

    At most 256 results are in memory at a time. `count` is the number of items, and `title` is the text beside the bar.
    """
    items = iter(items)
    with ThreadPoolExecutor() as pool, tqdm(total=count, desc=title, mininterval=2, delay=1) as bar:
        while block := list(itertools.islice(items, 256)):
            for result in pool.map(function, block):
                bar.update()
                yield result


@dataclass(frozen=True)
class StoredImages:
    """Give access to stored images like an array of shape (n, size, size, 3): indexing reads them from disk."""

    pixels: np.memmap  # uint8: all images of the store
    rows: np.ndarray  # int, shape (n,): the position in `pixels` of each of the n images
    checksums: np.ndarray  # shape (n,): CRC-32 of each image's pixels in eight hex digits, as bytes

    @property
    def shape(self):
        return len(self.rows), *self.pixels.shape[1:]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        images = np.array(self.pixels[self.rows[index]])
        self.pixels._mmap.madvise(mmap.MADV_DONTNEED)  # else the pages of the file that were read would stay in memory
        shape = self.pixels.shape[1:]
        if [*map(checksum, images.reshape(-1, *shape))] != np.atleast_1d(self.checksums[index]).tolist():
            name = Path(self.pixels.filename).name
            raise InputError(f"data/cache/{name} is damaged: delete it and run the chapter again.")
        return images


def checksum(pixels):
    """Compute the CRC-32 of an image's pixels in eight hex digits, as bytes."""
    return b"%08x" % zlib.crc32(pixels)


def store_files(folder, size):
    """Return the paths of the two files of a store: pixels and index."""
    return folder / f"images-{size}-{CODE}.uint8", folder / f"images-{size}-{CODE}.txt"


def read_index(folder, size):
    """Read the index lines of all complete images in a store: array of bytes, shape (n,).

    Incomplete images or lines that an interrupted process left at the end are ignored.
    """
    pixels, index = store_files(folder, size)
    if not (pixels.exists() and index.exists()):
        return np.empty(0, f"S{INDEX_LINE}")
    whole = min(pixels.stat().st_size // (size * size * 3), index.stat().st_size // INDEX_LINE)
    return np.fromfile(index, f"S{INDEX_LINE}", whole)


def stored_rows(folder, size):
    """Map each image file's SHA-256 to the position of its image in the store for size x size pixels: dict."""
    return {line[:64].decode("latin-1"): row for row, line in enumerate(read_index(folder, size))}


def store_images(folder, size, decoded):
    """Append decoded images to the store one by one, so memory use does not grow with the number of images.

    Parameters
    ----------
    decoded : iterable of (SHA-256 of the file, uint8 array of shape (size, size, 3))
        Images that are already in the store are skipped.

    Raises
    ------
    OSError
        When the disk is full; images already written stay in the store.
    """
    end_plan("decoded photos")
    folder.mkdir(parents=True, exist_ok=True)
    pixels, index = store_files(folder, size)
    with open(pixels, "ab") as images, open(index, "ab") as names:
        fcntl.flock(images, fcntl.LOCK_EX)  # wait for other processes that write to this store
        rows = stored_rows(folder, size)
        images.truncate(len(rows) * size * size * 3)
        names.truncate(len(rows) * INDEX_LINE)
        for sha256, image in decoded:
            if sha256 not in rows:
                rows[sha256] = len(rows)
                images.write(image.tobytes())
                names.write(b"%s %s\n" % (sha256.encode(), checksum(image)))


def open_images(folder, size, sha256):
    """Open images as `StoredImages`, in the order of the list `sha256`; KeyError if an image is missing."""
    lines, rows = read_index(folder, size), stored_rows(folder, size)
    pixels = np.memmap(store_files(folder, size)[0], np.uint8, "r", shape=(len(lines), size, size, 3))
    rows = np.array([rows[name] for name in sha256], int)
    checksums = np.array([line[65:73] for line in lines], "S8")[rows]
    return StoredImages(pixels, rows, checksums)
