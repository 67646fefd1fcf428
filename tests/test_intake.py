"""Chapter 1's data: what is found, what is downloaded, what is said about every file."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import helpers
from conftest import ROOT, make_dirty, paint, short
from leaves import dataset, files, image_store, parameters, places, sources, splitting
from leaves.files import InputError
from leaves.photos import (
    CHECKS,
    check_class_counts,
    examples,
    find_images,
    header_size,
    inspect_image,
    inspect_images,
    issue_table,
    issues_of,
    reason,
    settled,
    usable,
)

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image


def test_finds_the_images_of_each_class(photos):
    (photos / "Oak" / "notes.txt").write_text("no image")
    (photos / "Oak" / ".DS_Store").write_text("hidden")
    (photos / "readme.txt").write_text("nobody's business")
    shutil.copy(photos / "Oak" / "0.jpg", photos / "stray.jpg")
    (photos / ".hidden").write_text("no folder")
    (photos / ".Birch").mkdir()
    shutil.copy(photos / "Oak" / "0.jpg", photos / ".Birch" / "0.jpg")
    (photos / "Elm" / "UPPER.JPEG").write_bytes((photos / "Elm" / "0.jpg").read_bytes())
    images, issues = find_images(photos)
    assert images["label"].value_counts().to_dict() == {"Elm": 21, "Oak": 10}
    found = [["", "hidden folder"], ["Oak", "no photo"], ["", "no class"]]
    assert issues[["label", "check"]].to_numpy().tolist() == found
    assert issues["path"].iloc[0].endswith(".Birch")
    assert issues["action"].eq("excluded").all()


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
            r"Oak holds no JPEG or PNG images \(found: nothing\)",
        ),
        (
            lambda folder: [file.rename(f"{file}.webp") for file in folder.glob("Oak/*")],
            r"Oak holds no .* \(found: .*\.webp \(no photo\), .*\): move its",
        ),
        (
            lambda folder: nest(folder / "Elm"),
            r"Elm holds no JPEG or PNG images \(found: .*\(nested folder\).*\): move its",
        ),
        (lambda folder: (folder / os.fsdecode(b"Esp\xe8ce")).mkdir(), r"'Esp\\udce8ce' is not UTF-8 or has"),
        (lambda folder: (folder / os.fsdecode(b"Oak___\xff")).mkdir(), r"'Oak___\\udcff' is not UTF-8 or has"),
        (lambda folder: (folder / "two\rlines").mkdir(), r"'two\\rlines' is not UTF-8 or has a carriage return"),
        (lambda folder: (folder / "=1+1").mkdir(), r"'=1\+1' begins like a spreadsheet formula: rename it"),
        (lambda folder: (folder / "Oak___@SUM").mkdir(), r"'Oak___@SUM' begins like a spreadsheet formula"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(photos, spoil, sentence):
    spoil(photos)
    with pytest.raises(InputError, match=sentence):
        find_images(photos)


def checks_of(facts):
    """The checks of one photo, as a dict of name to detail."""
    return json.loads(facts["checks"])


def nest(folder):
    (folder / "inner").mkdir()
    (folder / "Thumbs.db").write_text("an index of pictures")
    for file in folder.glob("*.jpg"):
        file.rename(folder / "inner" / file.name)


@pytest.mark.parametrize(
    ("count", "sentence"), [(0, "Oak in .* has 0 usable images"), (4, "Oak in .* has 4 usable images")]
)
def test_a_class_with_too_few_images_is_named(photos, count, sentence):
    images, _ = find_images(photos)
    few = images.drop(images.index[images["label"] == "Oak"][count:])
    with pytest.raises(InputError, match=sentence):
        check_class_counts(few["label"], images["label"], photos)
    with pytest.raises(InputError, match="only the class Elm"):
        check_class_counts(images["label"][images["label"] == "Elm"], ["Elm"], photos)


# ---------------------------------------------------------------- which data


def note_source(data):
    """Leave data/source.json as chapter 1 does."""
    files.write_atomic(places.DATA / "source.json", json.dumps({"data": data, "name": "", "split": "0" * 16}, indent=1))


def test_without_a_name_the_data_used_last_are_taken(photos, working_folder):
    assert sources.last_source() == {}
    assert sources.chosen_data(None) == "sample"
    assert sources.origin_sentence(None).startswith("The photos are those of the synthetic sample; set the parameter")
    for data, name in {
        "plant_village": "PlantVillage",
        "sample": "the synthetic sample",
        str(photos): f"the folder {photos}",
    }.items():
        note_source(data)
        assert sources.chosen_data(None) == sources.last_source()["data"] == data
        assert sources.origin_sentence(None).startswith(f"Using {name}, as in the last run; ")
        assert sources.origin_sentence(data) == f"The photos are those of {name}, as in the last run."
    assert sources.locate(None, 70, 32, 0) == (photos, "the folder photos")
    told = f"The photos were those of the folder {photos}; from now on they are those of the synthetic sample."
    assert sources.origin_sentence("sample") == told


def test_a_folder_used_last_that_has_gone_is_named(photos, working_folder):
    note_source(str(photos))
    photos.rename(photos.with_name("moved"))
    with pytest.raises(InputError, match=f"{photos} of the last run is gone .*--data DIR.*--data sample"):
        sources.locate(None, 70, 32, 0)
    assert sources.locate(str(photos.with_name("moved")), 70, 32, 0)[0] == photos.with_name("moved")


@pytest.mark.parametrize("text", ["", "[1]", '{"data": 3}', '{"da'])
def test_a_damaged_record_of_the_data_means_none(working_folder, text):
    (places.DATA / "source.json").write_text(text)
    assert sources.last_source() == {}
    assert sources.chosen_data(None) == "sample"


def test_a_folder_begins_at_the_project_and_may_begin_with_a_tilde(photos, working_folder, monkeypatch):
    (working_folder / "notebooks").mkdir()
    monkeypatch.chdir(working_folder / "notebooks")
    photos.rename(working_folder / "~two")
    folder, source = sources.locate("./~two", 70, 32, 0)
    assert (folder, source) == (working_folder / "~two", "the folder ~two")
    assert len(find_images(folder)[0]) == len(find_images("./~two")[0]) == 30
    monkeypatch.setenv("HOME", str(working_folder))
    (working_folder / "~two").rename(working_folder / "leaves")
    assert sources.locate("~/leaves", 70, 32, 0)[0] == working_folder / "leaves"


def test_the_sample_is_called_synthetic(working_folder):
    folder, source = sources.locate("sample", 70, 32, 5)
    assert folder.parent == places.DATA
    assert source == "synthetic leaves, 32 x 32 pixels, seed 5 (leaves/sample.py)"


# ---------------------------------------------------------------- rights, links, odd names


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
def public():
    """A folder that every user may enter, with the classes Elm and Oak."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        for label in ("Elm", "Oak"):
            for seed in range(3):
                paint(folder / label / f"{seed}.jpg", seed=[len(label), seed])
        yield folder


def test_a_folder_without_read_permission_is_named(public):
    (public / "Oak").chmod(0)
    with powerless(), pytest.raises(InputError, match=r"Oak cannot be read .Permission denied.: check its permissions"):
        find_images(public)
    (public / "Oak").chmod(0o755)
    public.chmod(0)
    with powerless(), pytest.raises(InputError, match=r"cannot be read .Permission denied"):
        find_images(public)
    public.chmod(0o755)


def test_a_file_without_read_permission_is_left_out_until_it_may_be_read(public, working_folder):
    (public / "Oak" / "1.jpg").chmod(0)
    with powerless():
        facts, pixels = inspect_image(public / "Oak" / "1.jpg", 32)
    assert (checks_of(facts), pixels) == ({"does not open": "Permission denied"}, None)


def test_links_that_lead_nowhere_or_in_circles(photos, working_folder):
    (photos / "Oak" / "self.jpg").symlink_to(photos / "Oak" / "self.jpg")
    (photos / "Oak" / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    (photos / "Oak" / "circle").symlink_to(photos)
    (photos / "loop").symlink_to(photos / "loop")
    images, issues = find_images(photos)
    assert issues["check"].tolist() == ["nested folder"]
    images, _ = inspect_images(images)
    broken = images[images["checks"] != "{}"]
    assert [os.path.basename(path) for path in broken["path"]] == ["gone.jpg", "self.jpg"]
    assert [[*checks_of(row)] for row in broken.to_dict("records")] == [["does not open"]] * 2
    assert "symbolic links" in broken["checks"].iloc[1]
    assert "does not open (Too many levels of symbolic links)" in [reason(row) for row in broken.itertuples()]


@pytest.fixture
def special(photos):
    """Entries of the class Oak, and beside the classes, that no run may open; returns the folder of the classes."""
    for folder in (photos, photos / "Oak"):
        os.mkfifo(folder / "pipe.jpg")
        os.mkfifo(folder / "pipe")
        (folder / "endless.jpg").symlink_to("/dev/zero")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(folder / "socket.jpg"))  # a relative path, for it must be short
    return photos


def test_pipes_devices_and_sockets_are_named_and_never_opened(special, working_folder):
    images, issues = find_images(special)
    assert len(images) == 30
    assert issues["check"].eq("no regular file").all()
    names = ["endless.jpg", "pipe", "pipe.jpg", "socket.jpg"]
    assert sorted(map(short, issues["path"])) == sorted(
        f"{place}/{name}" for place in ("Oak", "photos") for name in names
    )
    found = pd.DataFrame({"path": [str(special / name) for name in names[:1] + names[2:]], "label": "Oak"})
    images, size = inspect_images(found)  # as of a flat folder, which `find_images` has not seen
    assert [[*checks_of(row)] for row in images.to_dict("records")] == [["no regular file"]] * 3
    assert np.isnan(header_size(special / "pipe.jpg")).all()
    assert size == 32


def test_a_huge_file_is_left_out_and_its_size_told(photos, working_folder, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    vast = photos / "Oak" / "vast.jpg"
    vast.touch()
    os.truncate(vast, files.LARGEST_FILE + 2_000_000_000)
    facts, pixels = inspect_image(vast, 32)
    assert (checks_of(facts), pixels) == ({"too large": "2,500 MB, more than 500 MB"}, None)
    assert np.isnan(header_size(vast)).all()
    monkeypatch.undo()


def test_huge_files_do_not_stop_the_others(photos, working_folder, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_FILE", (photos / "Oak" / "3.jpg").stat().st_size - 1)
    images, _ = inspect_images(find_images(photos)[0])
    issues = issues_of(images)
    too_large = [file for file in photos.glob("*/*") if file.stat().st_size > files.LARGEST_FILE]
    assert 0 < len(too_large) < 30
    assert sorted(issues["path"]) == sorted(map(str, too_large))
    assert issues["check"].eq("too large").all()


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
    images, issues = find_images(working_folder / "photos")
    assert issues["check"].eq("name").all()
    assert [path.rsplit("/")[-1] for path in issues["path"]] == [
        r"carriage\rreturn.jpg",
        r"b\udce4r.jpg",
        r"carriage\rreturn.jpg",
    ]
    images, _ = inspect_images(images)
    assert set(images["checks"]) == {"{}"}
    again, _ = inspect_images(find_images(working_folder / "photos")[0])
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
    images, issues = find_images(tmp_path)
    found = {os.path.basename(os.path.dirname(row.path)): (row.label, row.disease) for row in images.itertuples()}
    assert found == folders
    assert issues["label"].tolist() == ["Background_without_leaves"]


# ---------------------------------------------------------------- look into each


def test_every_check_finds_its_file(working_folder):
    planted = make_dirty(working_folder / "photos")
    images, found = find_images(working_folder / "photos")
    images, _ = inspect_images(images)
    issues = settled(issues_of(images))
    told = dict(zip(map(short, issues["path"]), issues["check"], strict=True))
    told |= dict(zip(map(short, found["path"]), found["check"], strict=True))
    seen_later = ("exact copy", "label conflict", "near duplicate")
    assert told == {file: check for file, check in planted.items() if check not in seen_later}
    assert set(planted.values()) | {"bridge", "name", "no class", "same leaf"} == set(CHECKS)
    sizes = images.set_index(images["path"].map(short))[["width", "height"]]
    assert sizes.loc["Oak/turned.jpg"].tolist() == [60, 90]
    sound = images[images["checks"] == "{}"]
    assert (sound["phashes"].str.len() == 8 * 16).all()
    left_out = {short(path) for path in set(images["path"]) - set(usable(images, issues)["path"])}
    names = ("empty.jpg", "text.jpg", "half.jpg", "huge.png", "white.png", "clear.png")
    assert left_out == {f"Oak/{name}" for name in names}


def test_a_photo_has_one_action_and_a_finding_its_own_detail(working_folder):
    folder = working_folder / "photos" / "Oak"
    folder.mkdir(parents=True)
    Image.new("RGBA", (60, 10), (0, 0, 0, 0)).save(folder / "blank.png")
    paint(folder / "colour.png", seed=1)
    with Image.open(folder / "colour.png") as image:
        image.convert("L").resize((20, 90)).save(folder / "grey.jpg")
    images, _ = inspect_images(find_images(working_folder / "photos")[0])
    issues = settled(issues_of(images))
    by_hand = [
        ("blank.png", "blank", "grey levels differ by 0.0 of 255", "excluded"),
        ("grey.jpg", "grayscale", "mode L", "kept"),
        ("grey.jpg", "tiny", "20 x 90 pixels", "kept"),
        ("grey.jpg", "extreme shape", "20 x 90 pixels", "kept"),
    ]
    issues["path"] = issues["path"].map(os.path.basename)
    assert [*issues[["path", "check", "detail", "action"]].itertuples(index=False, name=None)] == by_hand
    reasons = {os.path.basename(row.path): reason(row) for row in images.itertuples()}
    assert reasons == {"blank.png": "blank (grey levels differ by 0.0 of 255)", "colour.png": "", "grey.jpg": ""}


def test_a_bridge_loses_the_findings_that_keep_it():
    rows = [("a", "Oak", "near duplicate", "2 of 64 bits", "b"), ("c", "Oak", "tiny", "", "")]
    bridge = issue_table([("a", "Oak", "bridge", "new", "")])
    issues = settled(pd.concat([issue_table(rows), bridge]))
    assert issues[["path", "check"]].to_numpy().tolist() == [["a", "bridge"], ["c", "tiny"]]
    nothing = settled(pd.concat([issue_table([])] * 2))
    assert nothing.empty
    assert nothing["path"].str.removeprefix("x").empty  # a column of text even so


def test_every_row_of_findings_can_be_written(photos):
    shutil.copy(photos / "Oak" / "0.jpg", photos / os.fsdecode(b"stray \xff.jpg"))
    (photos / os.fsdecode(b".\xfe")).mkdir()
    _, issues = find_images(photos)
    assert issues["check"].tolist() == ["hidden folder", "no class"]
    assert [os.path.basename(path) for path in issues["path"]] == [r".\udcfe", r"stray \udcff.jpg"]
    issues.to_csv(index=False).encode()


def test_huge_images_are_refused_by_pillows_own_guard(working_folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 60):  # beyond the guard's warning, and beyond its error
        paint(working_folder / "photos" / "Oak" / f"{side}.jpg", side, size=side)
    paint(working_folder / "photos" / "Oak" / "30.jpg", 30, size=30)
    images, _ = inspect_images(find_images(working_folder / "photos")[0], 32)
    issues = issues_of(images)
    assert issues["check"].tolist() == ["tiny", "too large", "too large"]
    assert issues["detail"].iloc[1:].str.contains("exceeds limit of 1000 pixels|exceeds limit of 2000 pixels").all()


def test_a_second_look_decodes_nothing_but_what_changed(working_folder, photos, monkeypatch):
    first, size = inspect_images(find_images(photos)[0])
    opened = []
    usual = image_store.read_image
    monkeypatch.setattr(image_store, "read_image", lambda content: opened.append(content) or usual(content))
    again, same_size = inspect_images(find_images(photos)[0])
    pd.testing.assert_frame_equal(again, first, check_dtype=False)
    assert (size, opened) == (same_size, [])
    paint(photos / "Oak" / "3.jpg", seed=77)
    paint(photos / "Oak" / "added.jpg", seed=78)
    changed, _ = inspect_images(find_images(photos)[0])
    assert len(opened) == 2
    assert len(changed) == len(first) + 1
    assert (changed["sha256"] != "").all()


def test_some_rows_of_a_table_are_inspected_like_a_table_of_their_own(working_folder, photos):
    images, _ = find_images(photos)
    some, _ = inspect_images(images[images.index % 3 == 2], 32)
    whole, _ = inspect_images(images, 32)
    same = whole[whole["path"].isin(some["path"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, same, check_dtype=False)


def test_pixels_that_are_not_in_the_store_are_decoded_again(working_folder, photos):
    first, size = inspect_images(find_images(photos)[0])
    for other in (40, None):
        images, size = inspect_images(find_images(photos)[0], other)
        assert image_store.open_images(places.CACHE, size, images["sha256"])[:].shape == (30, size, size, 3)
    for file in working_folder.glob("data/cache/images-*"):
        file.unlink()
    again, size = inspect_images(find_images(photos)[0])
    pd.testing.assert_frame_equal(again, first, check_dtype=False)
    assert len(image_store.open_images(places.CACHE, size, again["sha256"])) == 30


def test_the_size_is_the_same_in_every_run(working_folder, photos):
    for number, file in enumerate(sorted(photos.glob("*/*"))):
        paint(file, number, size=108 + 5 * number)
    for number in range(6):
        (photos / "Oak" / f"empty {number}.jpg").write_bytes(b"")
    for file in sorted(photos.glob("Elm/*"))[:8]:
        file.write_bytes(file.read_bytes()[:-500])  # the header still tells the size
    sizes = {inspect_images(find_images(photos)[0])[1] for _ in range(3)}
    assert len(sizes) == 1


@pytest.mark.parametrize("size", [0, -3, 7])
def test_a_size_that_shows_nothing_is_named(working_folder, photos, size):
    with pytest.raises(InputError, match=f"image_size is {size}"):
        inspect_images(find_images(photos)[0], size)


def test_a_disk_that_fills_while_photos_are_checked(working_folder, photos, small_disk):
    with pytest.raises(InputError, match="make room on the disk"):
        inspect_images(find_images(photos)[0], 96)
    small_disk()  # room is made again
    images, size = inspect_images(find_images(photos)[0], 96)
    stored = image_store.open_images(places.CACHE, size, images["sha256"])[:]
    with Image.open(images["path"][17]) as photo:
        assert (stored[17] == np.asarray(photo.convert("RGB"))).all()


def test_an_interrupted_look_goes_on_where_it_stopped(working_folder, photos, monkeypatch):
    usual, opened = inspect_image, []

    def until_ctrl_c(path, size):
        opened.append(path)
        if path.endswith("Oak/5.jpg"):
            raise KeyboardInterrupt
        return usual(path, size)

    monkeypatch.setattr("leaves.photos.inspect_image", until_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        inspect_images(find_images(photos)[0])
    monkeypatch.setattr("leaves.photos.inspect_image", lambda path, size: opened.append(path) or usual(path, size))
    del opened[:]
    images, _ = inspect_images(find_images(photos)[0])
    assert len(images) == 30
    assert 5 <= len(opened) < 30


def test_examples_stand_with_their_own_check_and_show_a_pair_once():
    names = "abcdefghij"
    images = pd.DataFrame({"path": list(names), "label": "Oak", "sha256": list(names.upper()), "phashes": "0" * 128})
    images.loc[9, "phashes"] = ""  # its header tells a size, but it is cut short
    rows = [("a", "grayscale", ""), ("c", "palette", ""), ("b", "grayscale", ""), ("j", "truncated", "")]
    rows += [("d", "label conflict", "e"), ("e", "label conflict", "d"), ("f", "near duplicate", "d")]
    issues = issue_table([(path, "Oak", check, "", other) for path, check, other in rows])
    shown = examples(issues, images)
    assert shown.groupby("check")["sha256"].agg("".join).to_dict() == {
        "grayscale": "AB",
        "palette": "C",
        "label conflict": "DE",
        "near duplicate": "FD",
    }
    assert examples(issues, images, count=1).groupby("check").size().eq(1).all()


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
    known = {"url": server.url, "sha256": hashlib.sha256(server.content).hexdigest(), "photos": 6, "timeout": 1}
    return sources.fetch_plant_village(folder, **known | changes)


def test_plant_village_is_downloaded_once(server, tmp_path):
    folder = tmp_path / "data" / "plant_village"
    assert fetch(server, folder) == folder
    assert fetch(server, folder) == folder
    assert server.asked == 1
    assert not list(tmp_path.rglob("*.zip"))
    assert not list(tmp_path.rglob("Background*"))
    assert not list(tmp_path.rglob("outside.jpg"))
    images, _ = find_images(folder)
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
            sources.fetch_plant_village(tmp_path / "data" / "plant_village", url, "0" * 64, 7)


# ---------------------------------------------------------------- the chapter


NOTEBOOK = json.loads((ROOT / "notebooks" / "01_data_split.ipynb").read_text(encoding="utf-8"))
CELLS = [(cell["id"], "".join(cell["source"])) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_every_parameter_is_explained_as_the_registry_does():
    told = dict(line.split("  # ", 1) for line in CELLS[0][1].splitlines())
    values = dict(assignment.split(" = ") for assignment in told)
    assert {"validation_share", "test_share"} <= {*values}
    assert values["data"] == "None"
    for name, comment in zip(values, told.values(), strict=True):
        meaning = parameters.PARAMETERS[name].meaning
        assert comment.startswith(meaning)
        assert comment[len(meaning) :][:1] in {"", ":", ";", ","}


@pytest.fixture
def chapter(working_folder, monkeypatch, capsys):
    """Execute chapter 1 in `working_folder`; returns the number of findings it tells of each check, and its output."""

    def call(**changes):
        space = {}
        for number, (name, source) in enumerate(CELLS):
            exec(compile(source, name, "exec"), space)  # noqa: S102 - our own notebook
            space |= changes if number == 0 else {}
            if name == "01-31":
                told = space["checks"]["found"]
        return told[told > 0].to_dict(), capsys.readouterr().out

    monkeypatch.setattr(helpers, "show", lambda figure, *_, **__: plt.close(figure))
    monkeypatch.setattr(sys, "path", [*sys.path])
    return call


def split_of(folder):
    return pd.read_csv(folder / "data" / "split.csv").set_index("sha256")["split"]


def test_the_chapter_goes_on_with_its_photos_wherever_they_are_moved(photos, chapter, working_folder):
    found, told = chapter(data=str(photos), image_size=32)
    assert found == {}
    assert f"The photos are those of the folder {photos}.\n" in told
    assert "\n0 of 24 checks found something.\n" in told
    assert "Train and validation make up 5 folds of about 5 photos" in told
    source = sources.last_source()
    assert source == {
        "data": str(photos),
        "name": "the folder photos",
        "split": dataset.load_split().attrs["hash"],
        "settings": {"validation_share": 0.2, "test_share": 0.2, "phash_distance": 4, "data_seed": 0},
    }
    first = split_of(working_folder)
    moved = photos.rename(photos.with_name("moved"))
    with pytest.raises(InputError, match="of the last run is gone"):
        chapter()
    assert sources.last_source() == source
    for seed in range(20):
        paint(moved / "Oak" / f"added {seed}.jpg", seed=[5, 5, seed])
    _, told = chapter(data="moved", image_size=32)
    assert f"The photos were those of the folder {photos}; from now on they are those of the folder {moved}.\n" in told
    second = split_of(working_folder)
    assert len(second) == 50
    assert second[first.index].to_dict() == first.to_dict()
    _, told = chapter(image_size=32)
    assert f"Using the folder {moved}, as in the last run; " in told
    assert split_of(working_folder).to_dict() == second.to_dict()


def test_the_chapter_tells_and_writes_the_same_findings(chapter, working_folder):
    planted = make_dirty(working_folder / "leaves")
    found, _ = chapter(data="leaves", image_size=32)
    issues = pd.read_csv(places.DATA / "data_issues.csv", keep_default_na=False)
    assert issues["check"].value_counts().to_dict() == found
    assert found == pd.Series(planted).value_counts().to_dict()
    assert issues.groupby("path")["action"].nunique().eq(1).all()
    memory, _ = splitting.memory_of_split(**sources.last_source()["settings"])
    pair = [inspect_image(working_folder / "leaves" / "Oak" / name, 32)[0]["sha256"] for name in PAIR]
    decisions = {**split_of(working_folder), **dict(zip(pair, ("train", "test"), strict=True))}
    splitting.remember_split(memory, decisions, pd.DataFrame(columns=["sha256", "split"]))
    found, _ = chapter(data="leaves", image_size=32)  # two that are alike turn out to be in two subsets
    issues = pd.read_csv(places.DATA / "data_issues.csv", keep_default_na=False)
    assert issues["check"].value_counts().to_dict() == found
    assert (found["bridge"], found.get("near duplicate")) == (1, None)
    assert issues.groupby("path")["action"].nunique().eq(1).all()


def test_a_smaller_sample_is_split_after_a_larger_one(chapter, working_folder):
    """The smaller sample has some leaves of the larger one, which may all be training leaves there."""
    for count in (400, 154):
        chapter(data="sample", sample_count=count, sample_size=48, image_size=32)
        assert len(split_of(working_folder)) > 0.9 * count
    assert len(list((places.DATA / "splits").glob("*.csv"))) == 2


PAIR = ("original.jpg", "mirrored.jpg")  # of `make_dirty`: the first is told to be like the second
