"""Separate leaf and background by colour, and place the leaf on other backgrounds.

A score on photos of one collection can be high for the wrong reason: the background of a leaf reveals its species
(Noyan 2022, "Uncovering bias in the PlantVillage dataset", arXiv:2206.04374).
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from leaves import image_store, places, scoring
from leaves.cache import code_hash, computed_once
from leaves.dataset import DEVELOPMENT, load_images, shrunk_side

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import binary_dilation, binary_fill_holes, gaussian_filter, label
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu
from sklearn.ensemble import RandomForestClassifier

CODE = code_hash(Path(__file__))
LIGHT = 0.4  # weight of lightness in colour distances; the two colour axes have weight 1, so shadows count less
AREA = 0.05, 0.9  # smallest and largest share of the picture that a leaf covers
LEAST_PLAIN = 0.5  # `background_control` runs if at least this share of the photos has a plain background
NEAR_CHANCE = 0.05  # a macro F1 is near chance if its interval ends below chance plus this number
MOST_OF_BORDER = 0.5  # a leaf covers less than this share of the border, and more of the middle than of the border
NEAR = 0.03  # share of the side; a pixel nearer to the leaf than this may be on the leaf's edge or in its shadow
LEAST_OF_FOREGROUND = 0.7  # if its largest piece has less than this share of the foreground, the leaf is in pieces
SCALES = 0.4, 1.2  # smallest and largest size of a placed leaf, relative to its size in the photo
KINDS = {"rough": 0.35, "blurred": 0.3, "foliage": 0.35}  # kinds of backgrounds and their probabilities


# ---------------------------------------------------------------- masks


def leaf_mask(image):
    """Separate the leaf from a plain background.

    The function computes the distance of each pixel's colour to the median colour of the border, and smooths these
    distances. The pixels with a distance above Otsu's threshold (1979) are the leaf with its leaflets and stalk. Holes
    in the leaf are filled.

    Parameters
    ----------
    image : uint8 array, shape (height, width, 3), RGB

    Returns
    -------
    array of bool, shape (height, width); False everywhere if leaf and background cannot be separated
        This is the case if the detected leaf is too small, too large or in pieces. It is also the case if the leaf
        covers half of the border or more, or a larger share of the border than of the middle.
    """
    nothing = np.zeros(image.shape[:2], bool)
    colour = rgb2lab(image).astype(np.float32) * (LIGHT, 1, 1)
    distance = np.linalg.norm(colour - np.median(border_of(colour), axis=0), axis=-1)
    distance = gaussian_filter(distance, len(image) / 128)
    if np.ptp(distance) < 1:  # a single colour
        return nothing
    foreground = distance > threshold_otsu(distance)
    pieces, count = label(foreground)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    leaf = binary_fill_holes(foreground)
    whole = sizes.max() >= LEAST_OF_FOREGROUND * sizes.sum()
    quarter, on_border = len(image) // 4, border_of(leaf).mean()
    in_middle = leaf[quarter:-quarter, quarter:-quarter].mean()  # on_border is larger if `leaf` is the background
    in_range = AREA[0] < leaf.mean() < AREA[1] and on_border < min(MOST_OF_BORDER, in_middle)
    return leaf if whole and in_range else nothing


def border_of(picture):
    """Return the outermost pixels of a picture, in order around it: array of shape (pixels, ...)."""
    return np.concatenate([picture[0, :-1], picture[:-1, -1], picture[-1, :0:-1], picture[:0:-1, 0]])


def leaf_masks(split, subset):
    """Compute the leaf masks of a subset, with half as many pixels per side as the photos, or read them from the cache.

    Parameters
    ----------
    split, subset : see `dataset.load_images`

    Returns
    -------
    array of bool, shape (n, side, side), see `leaf_mask`
    """
    side = shrunk_side(split, 2)
    rows = split[split["split"] != "test" if subset == DEVELOPMENT else split["split"] == subset]
    photos = hashlib.sha256("".join(rows["sha256"]).encode()).hexdigest()
    key = f"{CODE} {image_store.CODE} {photos} {side}"

    def compute():
        images, _ = load_images(split, subset, side)
        with ThreadPoolExecutor() as pool:
            masks = list(pool.map(lambda row: leaf_mask(images[row]), range(len(images))))
        return {"bits": np.packbits(np.reshape(masks, (len(images), -1)), axis=1)}

    file = places.CACHE / f"masks-{subset}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    bits = computed_once(file, key, compute)["bits"]
    return np.unpackbits(bits, axis=1, count=side * side).reshape(-1, side, side).astype(bool)


def cut_out(image, mask):
    """Cut out the leaf: return a Pillow image in RGBA that is transparent outside the mask.

    The mask is shrunk by about a pixel first, and its edge is softened.
    """
    leaf = Image.fromarray(image)
    alpha = Image.fromarray(np.uint8(255 * mask)).resize(leaf.size, Image.Resampling.BILINEAR)
    leaf.putalpha(alpha.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.GaussianBlur(0.7)))
    return leaf


# ---------------------------------------------------------------- other backgrounds


def placed(leaf, size, scale, rng, spread=0.12):
    """Scale a leaf, rotate, mirror and shift it at random, and return it on a transparent square `size` pixels wide.

    Parameters
    ----------
    leaf : Pillow image, see `cut_out`
    scale : float
        Size of the leaf, relative to its size in the photo.
    spread : float
        The leaf shifts from the middle by at most `spread` or (1 - `scale`) / 2, whichever is larger, as a share of
        `size`. With the default `spread`, a leaf at half its size shifts by at most a quarter of `size` per axis.
    """
    angle, mirror = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1])
    x, y = size * (0.5 + rng.uniform(-1, 1, 2) * max(spread, (1 - scale) / 2))
    zoom, middle = leaf.width / (size * scale), leaf.width / 2
    a, b = mirror * zoom * np.cos(angle), -mirror * zoom * np.sin(angle)
    c, d = zoom * np.sin(angle), zoom * np.cos(angle)
    transform = (a, b, middle - a * x - b * y, c, d, middle - c * x - d * y)
    return leaf.transform((size, size), Image.Transform.AFFINE, transform, Image.Resampling.BILINEAR)


def in_other_light(picture, rng):
    """Make a Pillow image randomly brighter or darker (by up to about a third) and warmer or colder (up to a tenth)."""
    bright, warm = rng.uniform(0.65, 1.3), rng.uniform(0.9, 1.1)
    table = np.clip(np.outer([bright * warm, bright, bright / warm], np.arange(256)), 0, 255).astype(np.uint8)
    table = [*table.ravel().tolist(), *(range(256) if picture.mode == "RGBA" else ())]
    return picture.point(table)


def rough_ground(size, rng):
    """Imitate soil, wood, stone or cloth: draw noise on several scales around one colour, mostly an earthy one."""
    earthy = rng.random() < 0.6
    colour = rng.uniform((60, 50, 35), (190, 170, 140)) if earthy else rng.uniform(0, 255, 3)
    ground = np.zeros((size, size, 3), np.float32)
    for cells, most in ((3, 45), (8, 40), (24, 30), (64, 20)):
        strength = rng.uniform(0, most)
        noise = rng.normal(128, strength, (cells, cells, 1)) + rng.normal(0, strength / 4, (cells, cells, 3))
        noise = Image.fromarray(np.uint8(np.clip(noise, 0, 255))).resize((size, size), Image.Resampling.BICUBIC)
        ground += np.asarray(noise, np.float32) - 128
    return Image.fromarray(np.uint8(np.clip(colour + ground, 0, 255)))


def blurred_photo(size, other, rng):
    """Resize a random square region of another photo (a Pillow image) to `size` pixels per side, and blur it."""
    part = rng.uniform(0.3, 0.9) * other.width
    left, top = rng.uniform(0, other.width - part, 2)
    small = other.resize((size // 2, size // 2), Image.Resampling.BILINEAR, (left, top, left + part, top + part))
    small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.01, 0.06) * size))
    return small.resize((size, size), Image.Resampling.BILINEAR)


def foliage(size, leaf, scale, rng):
    """Draw one to eight copies of a leaf on dark ground, at 0.6 to 1.1 times `scale`, and blur the picture slightly."""
    half = size // 2
    ground = rough_ground(half, rng).point(lambda value: value // 2)
    small = leaf.resize((half, half), Image.Resampling.BILINEAR)
    for _ in range(rng.integers(1, 9)):
        copy = in_other_light(placed(small, half, scale * rng.uniform(0.6, 1.1), rng, spread=0.5), rng)
        ground.paste(copy, mask=copy.getchannel("A"))
    ground = ground.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.02) * half))
    return ground.resize((size, size), Image.Resampling.BILINEAR)


def replace_background(image, mask, other, rng):
    """Place a leaf on another background, in another position, size and light.

    Parameters
    ----------
    image, other : uint8 arrays, shape (size, size, 3), RGB; a blurred background is taken from `other`
    mask : array of bool, shape (side, side), see `leaf_mask`
        If it is False everywhere, only the light of the photo is changed.
    rng : numpy.random.Generator

    Returns
    -------
    uint8 array, shape (size, size, 3)
    """
    if not mask.any():
        return np.asarray(in_other_light(Image.fromarray(image), rng))
    size, leaf, scale = len(image), cut_out(image, mask), rng.uniform(*SCALES)
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
    if kind == "rough":
        ground = rough_ground(size, rng)
    elif kind == "blurred":
        ground = blurred_photo(size, Image.fromarray(other), rng)
    else:
        ground = foliage(size, leaf, scale, rng)
    ground, leaf = in_other_light(ground, rng), placed(in_other_light(leaf, rng), size, scale, rng)
    alpha = leaf.getchannel("A")
    if rng.random() < 0.5:  # the leaf casts a shadow
        x, y = rng.uniform(-0.06, 0.06, 2) * size
        shadow = alpha.transform(alpha.size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y))
        shadow = shadow.filter(ImageFilter.GaussianBlur(0.02 * size)).point(lambda value: value // 2)
        ground.paste((0, 0, 0), mask=shadow)
    ground.paste(leaf, mask=alpha)
    return np.asarray(ground)


@dataclass(frozen=True)
class OtherBackgrounds:
    """A view of all photos: the leaf of each photo lies on another background.

    The random choices for a picture depend only on the seed, the number of the view and the row of the photo. A blurred
    background is taken from a photo of the same group; `groups` holds the group of each photo. If the groups are the
    folds, a training photo never gets a background from a held-out photo.

    The view is used like an array of uint8, shape (n, size, size, 3). The pictures are computed when the view is
    indexed by an array of int or a slice.
    """

    images: np.ndarray  # or StoredImages, shape (n, size, size, 3)
    masks: np.ndarray  # bool, shape (n, side, side), see `leaf_masks`
    seed: int
    number: int  # number of the view
    groups: np.ndarray | None = None  # int, shape (n,); None if all photos are one group

    @property
    def shape(self):
        return self.images.shape

    def __len__(self):
        return len(self.images)

    def same_group(self, row):
        """Say which photos are in the group of photo `row`, in a form from which `Generator.choice` can draw a row.

        With groups, this is an array of row numbers. Without groups, it is n, the number of all photos:
        `Generator.choice(n)` draws from the rows 0 to n - 1.
        """
        return len(self) if self.groups is None else np.flatnonzero(self.groups == self.groups[row])

    def __getitem__(self, rows):
        rows = np.arange(len(self))[rows]
        if not len(rows):
            return np.array(self.images[rows])
        generators = [np.random.default_rng([self.seed, self.number, row]) for row in rows]
        pairs = zip(rows, generators, strict=True)
        others = self.images[np.array([rng.choice(self.same_group(row)) for row, rng in pairs], int)]
        with ThreadPoolExecutor() as pool:
            return np.stack([*pool.map(replace_background, self.images[rows], self.masks[rows], others, generators)])


# ---------------------------------------------------------------- background control


def eight_pixels(image, mask):
    """Choose eight background pixels, spread evenly along the parts of the picture's border that are not near the leaf.

    Parameters
    ----------
    image : uint8 array, shape (side, side, 3)
    mask : array of bool, shape (side, side), see `leaf_mask`

    Returns
    -------
    uint8 array, shape (8, 3); None if the mask is False everywhere, or if the border has fewer than eight
    pixels that are not near the leaf
    """
    near_leaf = binary_dilation(mask, iterations=max(1, round(NEAR * len(mask))))
    background = border_of(image)[~border_of(near_leaf)]
    if not mask.any() or len(background) < 8:
        return None
    return background[np.linspace(0, len(background) - 1, 8).astype(int)]


def border_pixels(images, masks):
    """Collect the eight background pixels of each photo for which `eight_pixels` returns them.

    Parameters
    ----------
    images, masks : arrays of all photos and their masks, see `eight_pixels`

    Returns
    -------
    pixels : uint8 array, shape (k, 8, 3)
    rows : array of int, shape (k,), row numbers of these k photos
    """
    found = {row: eight_pixels(images[row], mask) for row, mask in enumerate(masks)}
    rows = [row for row, pixels in found.items() if pixels is not None]
    return np.array([found[row] for row in rows], np.uint8).reshape(-1, 8, 3), np.array(rows, int)


def background_control(split, draws=1000, seed=0):
    """Predict the species from eight background pixels with a random forest (Breiman 2001), as Noyan (2022) did.

    Each fold is predicted by a forest that learnt from the other folds. Test photos and photos without a plain
    background are skipped.

    Parameters
    ----------
    split : DataFrame, see `dataset.load_split`
    draws : int
        Number of bootstrap resamples for the interval.

    Returns
    -------
    dict with the keys "photos" (int, the number of photos that were predicted), "macro F1", "low" and "high" (the ends
    of the 95 % bootstrap interval of the macro F1), and "chance" (the macro F1 of guessing each class as often as it
    occurs); None if fewer than half of the photos have a plain background, or if these photos are all in one fold
    """
    images, truth = load_images(split, DEVELOPMENT, shrunk_side(split, 2))
    pixels, rows = border_pixels(images, leaf_masks(split, DEVELOPMENT))
    fold = split.loc[split["split"] != "test", "fold"].to_numpy()[rows]
    if len(rows) < LEAST_PLAIN * len(images) or len(np.unique(fold)) < 2:
        return None
    pixels, truth = pixels.reshape(len(rows), -1), truth[rows]
    predicted = np.empty_like(truth)
    for held_out in np.unique(fold):
        forest = RandomForestClassifier(
            100, min_samples_leaf=3, class_weight="balanced_subsample", n_jobs=-1, random_state=seed
        )
        forest.fit(pixels[fold != held_out], truth[fold != held_out])
        predicted[fold == held_out] = forest.predict(pixels[fold == held_out])
    low, high = scoring.bootstrap_interval(truth, predicted, draws)
    score = {"photos": len(truth), "macro F1": scoring.macro_f1(truth, predicted), "low": low, "high": high}
    return score | {"chance": 1 / len(np.unique(truth))}


def in_words(control):
    """Say in words what a result of `background_control` means for the scores: str."""
    if control is None:
        return "Too few photos have a plain background to measure how much it reveals about the species."
    score, low, high, chance = (control[key] for key in ("macro F1", "low", "high", "chance"))
    measured = f"Eight background pixels alone give a macro F1 of {score:.3f} (95 % interval {low:.3f} to {high:.3f}, "
    measured += f"{control['photos']} photos, chance {chance:.3f})."
    if low > chance:
        return f"{measured} The background reveals the species, so it may explain a part of every score below."
    if high < chance + NEAR_CHANCE:
        return f"{measured} That is near chance: the background does not reveal the species."
    return f"{measured} That cannot be distinguished from chance with so few photos, so the question stays open."
