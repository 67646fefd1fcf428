"""Tests of backgrounds.py: leaf and background told apart, and how much the background gives away."""

from leaves import backgrounds, dataset

import numpy as np
import pytest
from PIL import Image, ImageDraw


def photo(colour=(60, 120, 50), paper=(160, 150, 155), box=(20, 16, 44, 50), size=64, seed=0):
    """A leaf on plain paper with a little noise, and its true mask."""
    picture, mask = Image.new("RGB", (size, size), paper), Image.new("L", (size, size))
    ImageDraw.Draw(picture).ellipse(box, colour)
    ImageDraw.Draw(mask).ellipse(box, 1)
    noise = np.random.default_rng(seed).normal(0, 3, (size, size, 3))
    return np.uint8(np.clip(picture + noise, 0, 255)), np.asarray(mask, bool)


@pytest.mark.parametrize("colour", [(60, 120, 50), (190, 170, 60), (90, 40, 30)])
@pytest.mark.parametrize("paper", [(160, 150, 155), (0, 0, 0), (240, 240, 240)])
def test_a_leaf_is_told_from_plain_paper(colour, paper):
    image, truth = photo(colour, paper)
    mask = backgrounds.leaf_mask(image)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


@pytest.mark.parametrize(
    "image",
    [
        np.full((64, 64, 3), 128, np.uint8),
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8),  # no plain background
        photo(box=(30, 30, 34, 34))[0],  # a dot
        photo(box=(-40, -40, 104, 104))[0],  # all leaf
    ],
    ids=["one colour", "noise", "too small", "too large"],
)
def test_where_no_leaf_can_be_told_there_is_no_mask(image):
    assert not backgrounds.leaf_mask(image).any()


def test_a_hole_in_a_leaf_belongs_to_it():
    image, truth = photo()
    image[30:34, 30:34] = (160, 150, 155)
    assert backgrounds.leaf_mask(image)[truth].mean() > 0.95


def test_a_leaf_that_is_cut_out_has_its_size_and_no_paper():
    image, truth = photo()
    leaf = np.asarray(backgrounds.cut_out(image, truth[::2, ::2]))  # a mask of another size
    assert leaf.shape == (64, 64, 4)
    shown = leaf[..., 3] > 127
    assert truth[shown].mean() > 0.99
    assert 0.7 < shown.sum() / truth.sum() < 1


def view_of(count=6, seed=0, number=1, **photos):
    images, masks = zip(*(photo(seed=row, **photos) for row in range(count)), strict=True)
    return backgrounds.OtherBackgrounds(np.stack(images), np.stack(masks), seed, number)


def test_other_backgrounds_are_a_function_of_seed_view_and_index():
    view = view_of()
    whole = view[:]
    np.testing.assert_array_equal(view[np.array([4, 1])], whole[[4, 1]])
    np.testing.assert_array_equal(view_of()[:], whole)
    assert whole.shape == view.shape == (6, 64, 64, 3)
    for other in (view_of(seed=1)[:], view_of(number=2)[:], view.images):
        assert all((other[row] != whole[row]).any() for row in range(6))


def test_the_paper_is_gone_and_the_leaf_is_still_there():
    """Red leaves on blue paper: no background is made from the paper, but for the blurred other photos."""
    pictures = view_of(40, colour=(220, 20, 20), paper=(20, 20, 220))[:].astype(int)
    red = (pictures[..., 0] > 2 * pictures[..., 1]) & (pictures[..., 0] > 2 * pictures[..., 2])
    paper = (pictures[..., 2] > 2 * pictures[..., 0]) & (pictures[..., 2] > 2 * pictures[..., 1])
    assert (red.mean(axis=(1, 2)) > 0.01).mean() > 0.9
    assert (paper.mean(axis=(1, 2)) < 0.5).mean() > 0.6
    assert np.ptp(red.mean(axis=(1, 2))) > 0.1  # in several sizes


def test_a_photo_without_a_mask_keeps_its_background():
    view = view_of()
    bare = backgrounds.OtherBackgrounds(view.images, np.zeros_like(view.masks), 0, 1)[:]
    for picture, image in zip(bare, view.images, strict=True):  # in other light: brighter and darker places stay
        assert np.corrcoef(picture.ravel(), image.ravel())[0, 1] > 0.9


def test_masks_are_computed_once(project, monkeypatch):
    first = backgrounds.leaf_masks(project, "development")
    monkeypatch.setattr(backgrounds, "leaf_mask", None)
    again = backgrounds.leaf_masks(project, "development")
    assert first.shape == (sum(project["split"] != "test"), 32, 32)
    np.testing.assert_array_equal(first, again)


def test_eight_pixels_lie_on_the_border_and_not_at_the_leaf():
    image = np.arange(33 * 33).reshape(33, 33, 1).repeat(3, axis=2)
    mask = np.zeros((33, 33), bool)
    mask[8:24, 8:24] = True
    around = backgrounds.eight_pixels(image, mask)[:, 0]
    assert around.tolist() == [0, 18, 164, 758, 1080, 1062, 660, 33]
    mask[:20] = True  # the upper side is leaf, and the row below it is near one
    rows = backgrounds.eight_pixels(image, mask)[:, 0] // 33
    assert rows.min() == 21
    mask[:] = True
    assert backgrounds.eight_pixels(image, mask) is None
    assert backgrounds.eight_pixels(image, np.zeros_like(mask)) is None


def test_border_pixels_names_the_photos_that_have_a_plain_background():
    image, mask = photo()
    pixels, rows = backgrounds.border_pixels(np.stack([image] * 3), np.stack([mask, np.zeros_like(mask), mask]))
    assert pixels.shape == (2, 8, 3)
    assert rows.tolist() == [0, 2]


def test_paper_beside_a_leaf_that_fills_the_picture_is_no_leaf():
    image = np.full((64, 64, 3), (60, 130, 60), np.uint8)
    image[:, :14] = (150, 140, 150)
    assert not backgrounds.leaf_mask(image).any()


@pytest.fixture
def control_of(project, monkeypatch):
    """The control on photos whose paper follows the class, or does not."""

    def control(papers):
        monkeypatch.setattr(backgrounds, "load_images", lambda split, subset, size: (pictures(papers), labels))
        monkeypatch.setattr(backgrounds, "leaf_masks", lambda split, subset: np.stack([photo()[1]] * len(labels)))
        return backgrounds.background_control(project)

    labels = dataset.load_images(project, "development", 32)[1]

    def pictures(papers):
        rng = np.random.default_rng(1)
        tones = 20 * labels if papers == "of the class" else 20 * rng.integers(0, labels.max() + 1, len(labels))
        return np.stack([photo(paper=(100 + tone,) * 3, seed=row)[0] for row, tone in enumerate(tones)])

    return control


def test_paper_that_follows_the_species_is_found(control_of):
    control = control_of("of the class")
    assert control["low"] > control["chance"]
    assert "reveals the species" in backgrounds.in_words(control)


def test_paper_that_does_not_follow_the_species_is_near_chance(control_of):
    control = control_of("any")
    assert control["low"] <= control["chance"]
    assert "reveals the species" not in backgrounds.in_words(control)


def test_photos_without_plain_background_have_no_control(project, monkeypatch):
    count = sum(project["split"] != "test")
    monkeypatch.setattr(backgrounds, "leaf_masks", lambda split, subset: np.zeros((count, 32, 32), bool))
    assert backgrounds.background_control(project) is None
    assert backgrounds.in_words(None).startswith("Too few photos")


def test_every_piece_of_the_leaf_is_in_its_mask():
    """A leaflet apart from the leaf is no background, or the controls would measure leaves."""
    image, mask = photo()
    image = image.copy()
    image[2:8, 2:8] = image[mask].mean(axis=0)
    found = backgrounds.leaf_mask(image)
    assert found[3:7, 3:7].all()
    assert (found & mask).sum() > 0.9 * mask.sum()


def test_blurred_photos_come_from_the_same_group(monkeypatch):
    view = view_of()
    groups = np.array([0, 1, 0, 1, 0, 1])
    drawn = []
    monkeypatch.setattr(backgrounds, "replace_background", lambda image, mask, other, rng: drawn.append(other) or image)
    backgrounds.OtherBackgrounds(view.images, view.masks, 0, 1, groups)[:]
    for row, other in enumerate(drawn):
        [source] = [number for number, image in enumerate(view.images) if (image == other).all()]
        assert groups[source] == groups[row]


def test_masks_follow_the_photos_and_not_the_name_of_the_split(project):
    """A part of a split keeps its hash: chapter 6 trains on fewer photos."""
    whole = backgrounds.leaf_masks(project, "development")
    fewer = project.drop(index=project.index[project["split"] == "train"][:5])
    assert len(backgrounds.leaf_masks(fewer, "development")) == len(whole) - 5


def test_a_wide_interval_at_chance_leaves_the_question_open():
    control = {"photos": 20, "macro F1": 0.1, "low": 0.02, "high": 0.3, "chance": 0.07}
    assert "stays open" in backgrounds.in_words(control)
