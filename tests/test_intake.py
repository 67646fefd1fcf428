"""Chapter 1's data: what is found, what is downloaded, what is said about every file."""

import contextlib
import http.server
import io
import os
import shutil
import socket
import threading
import time
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import make_dirty, paint, short
from PIL import Image

import helpers
from data import image_store, intake
from helpers import InputError


def test_finds_the_images_of_each_class(photos):
    (photos / "Oak" / "notes.txt").write_text("no image")
    (photos / "Oak" / ".DS_Store").write_text("hidden")
    (photos / "readme.txt").write_text("nobody's business")
    shutil.copy(photos / "Oak" / "0.jpg", photos / "stray.jpg")
    (photos / ".hidden").mkdir()
    (photos / "Elm" / "UPPER.JPEG").write_bytes((photos / "Elm" / "0.jpg").read_bytes())
    images, issues = intake.find_images(photos)
    assert images["label"].value_counts().to_dict() == {"Elm": 21, "Oak": 10}
    assert issues[["label", "check"]].to_numpy().tolist() == [["Oak", "no photo"], ["", "no class"]]
    assert issues["action"].eq("left out").all()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: folder.rename(folder.with_name("moved")), "There is no data folder"),
        (lambda folder: [shutil.rmtree(folder), folder.write_text("a file")], "There is no data folder"),
        (
            lambda folder: [shutil.rmtree(folder / label) for label in ("Oak", "Elm")],
            "holds no sub-folders with images",
        ),
        (
            lambda folder: [file.unlink() for file in folder.glob("Oak/*")],
            "Oak holds no JPEG or PNG images, but nothing",
        ),
        (lambda folder: [file.rename(f"{file}.webp") for file in folder.glob("Oak/*")], "Oak holds no .* but no photo"),
        (lambda folder: nest(folder / "Elm"), "Elm holds no JPEG or PNG images, but nested folder, no photo: move the"),
        (lambda folder: (folder / os.fsdecode(b"Esp\xe8ce")).mkdir(), r"'Esp\\udce8ce' is not UTF-8 or has"),
        (lambda folder: (folder / os.fsdecode(b"Oak___\xff")).mkdir(), r"'Oak___\\udcff' is not UTF-8 or has"),
        (lambda folder: (folder / "two\rlines").mkdir(), r"'two\\rlines' is not UTF-8 or has a carriage return"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(photos, spoil, sentence):
    spoil(photos)
    with pytest.raises(InputError, match=sentence):
        intake.find_images(photos)


def nest(folder):
    (folder / "inner").mkdir()
    (folder / "Thumbs.db").write_text("an index of pictures")
    for file in folder.glob("*.jpg"):
        file.rename(folder / "inner" / file.name)


@pytest.mark.parametrize(
    ("count", "sentence"), [(0, "Oak in .* has 0 usable images"), (4, "Oak in .* has 4 usable images")]
)
def test_a_class_with_too_few_images_is_named(photos, count, sentence):
    images, _ = intake.find_images(photos)
    few = images.drop(images.index[images["label"] == "Oak"][count:])
    with pytest.raises(InputError, match=sentence):
        intake.check_class_counts(few["label"], images["label"], photos)
    with pytest.raises(InputError, match="only the class Elm"):
        intake.check_class_counts(images["label"][images["label"] == "Elm"], ["Elm"], photos)


@contextlib.contextmanager
def powerless():
    """Without the rights of the administrator, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public(tmp_path_factory):
    """A folder that every user may enter, with the classes Elm and Oak."""
    folder = tmp_path_factory.mktemp("public")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    for label in ("Elm", "Oak"):
        for seed in range(3):
            paint(folder / label / f"{seed}.jpg", seed=[len(label), seed])
    return folder


def test_a_folder_without_read_permission_is_named(public):
    (public / "Oak").chmod(0)
    with powerless(), pytest.raises(InputError, match=r"Oak cannot be read .Permission denied.: check its permissions"):
        intake.find_images(public)
    (public / "Oak").chmod(0o755)
    public.chmod(0)
    with powerless(), pytest.raises(InputError, match=r"cannot be read .Permission denied"):
        intake.find_images(public)
    public.chmod(0o755)


def test_a_file_without_read_permission_is_left_out_until_it_may_be_read(public, working_folder):
    (public / "Oak" / "1.jpg").chmod(0)
    with powerless():
        facts, pixels = intake.inspect_image(public / "Oak" / "1.jpg", 32)
    assert (facts["checks"], facts["detail"], pixels) == ("does not open", "Permission denied", None)


def test_links_that_lead_nowhere_or_in_circles(photos, working_folder):
    (photos / "Oak" / "self.jpg").symlink_to(photos / "Oak" / "self.jpg")
    (photos / "Oak" / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    (photos / "Oak" / "circle").symlink_to(photos)
    (photos / "loop").symlink_to(photos / "loop")
    images, issues = intake.find_images(photos)
    assert issues["check"].tolist() == ["nested folder"]
    images, _ = intake.inspect_images(images)
    broken = images[images["checks"] != ""]
    assert [os.path.basename(path) for path in broken["path"]] == ["gone.jpg", "self.jpg"]
    assert broken["checks"].eq("does not open").all()
    assert "symbolic links" in broken["detail"].iloc[1]


ODD_NAMES = [
    "a b.jpg",
    "it's.jpg",
    'say "a".jpg',
    "naïve 葉 🍁.jpg",
    "two\nlines.JPG",
    "carriage\rreturn.jpg",
    "a,b;c.PNG",
    "-rf.jpg",
    "$x^2$.jpeg",
]


def test_odd_names_survive_the_split_file(working_folder):
    for label in ('It\'s "the", leaf\n葉', "Oak"):
        for number, name in enumerate(ODD_NAMES):
            paint(working_folder / "photos" / label / name, seed=[len(label), number])
    (working_folder / "photos" / "Oak" / os.fsdecode(b"b\xe4r.jpg")).write_bytes(b"not valid UTF-8")
    images, issues = intake.find_images(working_folder / "photos")
    assert issues["check"].eq("name").all()
    assert [path.rsplit("/")[-1] for path in issues["path"]] == [
        r"carriage\rreturn.jpg",
        r"b\udce4r.jpg",
        r"carriage\rreturn.jpg",
    ]
    images, _ = intake.inspect_images(images)
    assert set(images["checks"]) == {""}
    again, _ = intake.inspect_images(intake.find_images(working_folder / "photos")[0])
    pd.testing.assert_frame_equal(again, images, check_dtype=False)


def test_plant_villages_folders_are_folded(tmp_path):
    folders = {
        "Pepper,_bell___Bacterial_spot": ("Pepper", "Bacterial_spot"),
        "Cherry_(including_sour)___healthy": ("Cherry", "healthy"),
        "Corn_(maize)___Common_rust_": ("Corn", "Common_rust_"),
        "Pepper__bell___healthy": ("Pepper", "healthy"),
        "Grape___Esca_(Black_Measles)": ("Grape", "Esca_(Black_Measles)"),
        "Black_oak": ("Black_oak", ""),
        "___odd": ("___odd", ""),
    }
    for number, name in enumerate([*folders, "Background_without_leaves"]):
        paint(tmp_path / name / "image (1).JPG", number)
    images, issues = intake.find_images(tmp_path)
    found = {os.path.basename(os.path.dirname(row.path)): (row.label, row.disease) for row in images.itertuples()}
    assert found == folders
    assert issues["label"].tolist() == ["Background_without_leaves"]


# ---------------------------------------------------------------- look into each


def test_every_check_finds_its_file(working_folder):
    planted = make_dirty(working_folder / "photos")
    images, found = intake.find_images(working_folder / "photos")
    images, _ = intake.inspect_images(images)
    issues = intake.issues_of(images)
    told = dict(zip(map(short, issues["path"]), issues["check"], strict=True))
    told |= dict(zip(map(short, found["path"]), found["check"], strict=True))
    seen_later = ("exact copy", "label conflict", "near duplicate")
    assert told == {file: check for file, check in planted.items() if check not in seen_later}
    assert set(planted.values()) | {"bridge", "name", "no class", "same leaf"} == set(intake.CHECKS)
    sizes = images.set_index(images["path"].map(short))[["width", "height"]]
    assert sizes.loc["Oak/turned.jpg"].tolist() == [60, 90]
    sound = images[images["checks"] == ""]
    assert (sound["phashes"].str.len() == 8 * 16).all()
    left_out = {short(path) for path in set(images["path"]) - set(intake.usable(images, issues)["path"])}
    assert left_out == {f"Oak/{name}" for name in ("empty.jpg", "text.jpg", "half.jpg", "huge.png", "white.png")}


def test_huge_images_are_refused_by_pillows_own_guard(working_folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 60):  # beyond the guard's warning, and beyond its error
        paint(working_folder / "photos" / "Oak" / f"{side}.jpg", side, size=side)
    paint(working_folder / "photos" / "Oak" / "30.jpg", 30, size=30)
    images, _ = intake.inspect_images(intake.find_images(working_folder / "photos")[0], 32)
    assert images["checks"].tolist() == ["tiny", "too large", "too large"]
    assert images["detail"].iloc[1:].str.contains("exceeds limit of 1000 pixels|exceeds limit of 2000 pixels").all()


def test_a_second_look_decodes_nothing_but_what_changed(working_folder, photos, monkeypatch):
    first, size = intake.inspect_images(intake.find_images(photos)[0])
    opened = []
    usual = image_store.read_image
    monkeypatch.setattr(image_store, "read_image", lambda content: opened.append(content) or usual(content))
    again, same_size = intake.inspect_images(intake.find_images(photos)[0])
    pd.testing.assert_frame_equal(again, first, check_dtype=False)
    assert (size, opened) == (same_size, [])
    paint(photos / "Oak" / "3.jpg", seed=77)
    paint(photos / "Oak" / "added.jpg", seed=78)
    changed, _ = intake.inspect_images(intake.find_images(photos)[0])
    assert len(opened) == 2
    assert len(changed) == len(first) + 1
    assert (changed["sha256"] != "").all()


def test_pixels_that_are_not_in_the_store_are_decoded_again(working_folder, photos):
    first, size = intake.inspect_images(intake.find_images(photos)[0])
    for other in (40, None):
        images, size = intake.inspect_images(intake.find_images(photos)[0], other)
        assert image_store.open_images(helpers.CACHE, size, images["sha256"])[:].shape == (30, size, size, 3)
    for file in working_folder.glob("data/cache/images-*"):
        file.unlink()
    again, size = intake.inspect_images(intake.find_images(photos)[0])
    pd.testing.assert_frame_equal(again, first, check_dtype=False)
    assert len(image_store.open_images(helpers.CACHE, size, again["sha256"])) == 30


def test_the_size_is_the_same_in_every_run(working_folder, photos):
    for number, file in enumerate(sorted(photos.glob("*/*"))):
        paint(file, number, size=108 + 5 * number)
    for number in range(6):
        (photos / "Oak" / f"empty {number}.jpg").write_bytes(b"")
    for file in sorted(photos.glob("Elm/*"))[:8]:
        file.write_bytes(file.read_bytes()[:-500])  # the header still tells the size
    sizes = {intake.inspect_images(intake.find_images(photos)[0])[1] for _ in range(3)}
    assert len(sizes) == 1


@pytest.mark.parametrize("size", [0, -3, 7])
def test_a_size_that_shows_nothing_is_named(working_folder, photos, size):
    with pytest.raises(InputError, match=f"image_size is {size}"):
        intake.inspect_images(intake.find_images(photos)[0], size)


def test_a_disk_that_fills_while_photos_are_checked(working_folder, photos, small_disk):
    with pytest.raises(InputError, match="make room on the disk"):
        intake.inspect_images(intake.find_images(photos)[0], 96)
    small_disk()  # room is made again
    images, size = intake.inspect_images(intake.find_images(photos)[0], 96)
    stored = image_store.open_images(helpers.CACHE, size, images["sha256"])[:]
    with Image.open(images["path"][17]) as photo:
        assert (stored[17] == np.asarray(photo.convert("RGB"))).all()


def test_an_interrupted_look_goes_on_where_it_stopped(working_folder, photos, monkeypatch):
    usual, opened = intake.inspect_image, []

    def until_ctrl_c(path, size):
        opened.append(path)
        if path.endswith("Oak/5.jpg"):
            raise KeyboardInterrupt
        return usual(path, size)

    monkeypatch.setattr(intake, "inspect_image", until_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        intake.inspect_images(intake.find_images(photos)[0])
    monkeypatch.setattr(intake, "inspect_image", lambda path, size: opened.append(path) or usual(path, size))
    del opened[:]
    images, _ = intake.inspect_images(intake.find_images(photos)[0])
    assert len(images) == 30
    assert 5 <= len(opened) < 30


def test_examples_stand_with_their_own_check_and_show_a_pair_once():
    names = "abcdefghij"
    images = pd.DataFrame({"path": list(names), "label": "Oak", "sha256": list(names.upper()), "phashes": "0" * 128})
    images.loc[9, "phashes"] = ""  # its header tells a size, but it is cut short
    rows = [("a", "grayscale", ""), ("c", "palette", ""), ("b", "grayscale", ""), ("j", "truncated", "")]
    rows += [("d", "label conflict", "e"), ("e", "label conflict", "d"), ("f", "near duplicate", "d")]
    issues = intake.issue_table([(path, "Oak", check, "", other) for path, check, other in rows])
    shown = intake.examples(issues, images)
    assert shown.groupby("check")["sha256"].agg("".join).to_dict() == {
        "grayscale": "AB",
        "palette": "C",
        "label conflict": "DE",
        "near duplicate": "FD",
    }
    assert intake.examples(issues, images, count=1).groupby("check").size().eq(1).all()


# ---------------------------------------------------------------- download


@pytest.fixture
def archive():
    """A small archive laid out like PlantVillage's: 6 photos of leaves, 1 of none, and a path that leads outside."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        for number, place in enumerate(
            ["Apple___Apple_scab/image (1).JPG", "Apple___healthy/image (1).JPG", "Apple___healthy/image (2).JPG"]
            + ["Corn___Common_rust/image (1).JPG", "Corn___Common_rust/image (2).jpeg", "Corn___healthy/image (1).PNG"]
            + ["Background_without_leaves/image (1).jpg", "../../../outside.jpg"]
        ):
            image = io.BytesIO()
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (9, 9, 3), np.uint8)).save(image, "JPEG")
            packed.writestr(f"Plant_leave_diseases_dataset_without_augmentation/{place}", image.getvalue())
        packed.writestr("Plant_leave_diseases_dataset_without_augmentation/readme.txt", "none")
    return content.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` on 127.0.0.1, as `manner` says: whole, half, silent, missing."""

    content, manner, asked = b"", "whole", 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file_downloaded"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        if self.server.manner == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        half = self.server.manner in ("half", "silent")
        self.wfile.write(self.server.content[: len(self.server.content) // (2 if half else 1)])
        if self.server.manner == "silent":
            self.wfile.flush()
            time.sleep(5)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(archive):
    with Server(("127.0.0.1", 0), Handler) as server:
        server.content = archive
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetch(server, folder, **changes):
    known = {"url": server.url, "sha256": intake.hashlib.sha256(server.content).hexdigest(), "photos": 6, "timeout": 1}
    return intake.fetch_plant_village(folder, **known | changes)


def test_plant_village_is_downloaded_once(server, tmp_path):
    folder = tmp_path / "data" / "plant_village"
    assert fetch(server, folder) == folder
    assert fetch(server, folder) == folder
    assert server.asked == 1
    assert not list(tmp_path.rglob("*.zip"))
    assert not list(tmp_path.rglob("Background*"))
    assert not list(tmp_path.rglob("outside.jpg"))
    images, _ = intake.find_images(folder)
    assert images["label"].value_counts().to_dict() == {"Apple": 3, "Corn": 3}
    assert images["disease"].tolist() == ["Apple_scab", "healthy", "healthy", "Common_rust", "Common_rust", "healthy"]


@pytest.mark.parametrize(
    ("manner", "told"),
    [("half", "retrieval incomplete: got only"), ("silent", "timed out"), ("missing", "404 -- Not Found")],
)
def test_a_broken_transfer_is_told_and_started_anew(server, tmp_path, manner, told):
    folder = tmp_path / "data" / "plant_village"
    server.manner = manner
    with pytest.raises(InputError, match=f"could not be downloaded: .*{told}.*run the same command again later"):
        fetch(server, folder)
    assert not folder.exists()
    server.manner = "whole"
    fetch(server, folder)
    assert len(list(folder.glob("*/*"))) == 6


def test_a_killed_download_is_started_anew(server, tmp_path):
    folder = tmp_path / "data" / "plant_village"
    (tmp_path / "data" / "download").mkdir(parents=True)
    (tmp_path / "data" / "download" / "plant_village.zip").write_bytes(server.content[:1000])
    (tmp_path / "data" / "plant_village.unfinished" / "Apple___healthy").mkdir(parents=True)
    (tmp_path / "data" / "plant_village.unfinished" / "Apple___healthy" / "half.jpg").write_bytes(b"half")
    fetch(server, folder)
    assert len(list(folder.glob("*/*"))) == 6


def test_another_archive_is_refused(server, tmp_path):
    folder = tmp_path / "data" / "plant_village"
    with pytest.raises(InputError, match="hash does not match"):
        fetch(server, folder, sha256="0" * 64)
    with pytest.raises(InputError, match="holds 6 photos instead of 54305"):
        fetch(server, folder, photos=54305)
    assert not folder.exists()


def test_no_network_is_one_sentence(tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/file"
        with pytest.raises(InputError, match="Connection refused.*name a folder of photos with --data DIR"):
            intake.fetch_plant_village(tmp_path / "data" / "plant_village", url, "0" * 64, 7)
