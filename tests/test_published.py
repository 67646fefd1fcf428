"""The published study: the evidence of its runs, the table of its photos, and what is published."""

import hashlib
import json
import shutil
from pathlib import Path

import helpers
from leaves import ablations, custom_cnn, duplicates, photos, places, published, runs, sources, splitting
from leaves.dead_units import DEAD_FILTERS
from leaves.figures import tables
from leaves.files import InputError, file_hash, read_json, write_atomic
from leaves.hardware import processor_kind
from leaves.report import publish, render
from leaves.report.chapters import CHAPTERS, NUMBERS, chapter_parameters, read_by
from leaves.report.page import finish_page

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def small_specs(split, count=2):
    layers = [["Rescaling", {"scale": 1 / 255}], ["Conv2D", {"filters": 3, "kernel_size": 3}], ["ReLU", {}]]
    layers += [["MaxPooling2D", {}], ["GlobalAveragePooling2D", {}], ["Dense", {"units": 2, "activation": "softmax"}]]
    return custom_cnn.cnn_specs("03", "plain", split, 40, 3, 0, count, layers=layers)


def dead_filters_kept(run, split):
    return run.reading(DEAD_FILTERS, lambda: ablations.dead_filters_of_run(run, split))


def never(spec, split):
    pytest.fail("trained again")


@pytest.fixture(scope="module")
def stored_runs(tmp_path_factory):
    """The folder in which the runs of `trained` are stored, so they are trained for one test only."""
    return tmp_path_factory.mktemp("stored") / "runs"


@pytest.fixture
def trained(project, stored_runs):
    """The runs of `small_specs` in a new project."""
    if stored_runs.exists():
        shutil.copytree(stored_runs, places.RUNS, dirs_exist_ok=True)
    finished = helpers.train_all(small_specs(project), project, custom_cnn.prepare)
    if not stored_runs.exists():
        shutil.copytree(places.RUNS, stored_runs)
    return finished


@pytest.fixture
def kept(project, trained):
    """The specs and runs of a project that keeps the evidence of its runs only."""
    specs = small_specs(project)
    histories = [run.history for run in trained]
    predictions = [run.validation_probabilities for run in trained]
    for run in trained:
        publish.keep_evidence(run)
        shutil.rmtree(run.folder)
    return specs, trained, histories, predictions


def test_evidence_is_small_and_holds_no_weights(kept):
    _, trained, _, _ = kept
    for run in trained:
        files = [*(places.RESULTS / "runs" / run.folder.name).iterdir()]
        assert {file.name for file in files} == {"spec.json", "result.json", "history.csv", "validation.npy"}
        assert sum(file.stat().st_size for file in files) < 15_000


def test_a_run_with_evidence_is_not_trained_for_its_numbers(project, kept, capsys):
    specs, trained, histories, predictions = kept
    again = helpers.train_all(specs, project, never, runs.NUMBERS)
    assert "2 of these 2 trainings are read from results/runs." in capsys.readouterr().out
    for run, was, history, predicted in zip(again, trained, histories, predictions, strict=True):
        unrounded = was.result["hashes"]["validation.npy"]
        assert {**run.result, "hashes": {}} == {**was.result, "hashes": {}, "predictions": unrounded}
        assert run.identity == was.identity
        pd.testing.assert_frame_equal(run.history, history, rtol=1e-6)
        np.testing.assert_allclose(run.validation_probabilities, predicted, atol=1e-3)
        assert run.validation_probabilities.dtype == np.float32


def test_a_run_of_which_the_weights_are_needed_is_trained(project, kept):
    specs, _, _, _ = kept
    [run, _] = helpers.train_all(specs, project, custom_cnn.prepare)
    assert run.folder.parent == places.RUNS
    assert run.load_model().count_params() == run.result["params"]


def test_what_was_read_from_weights_and_logs_is_kept(project):
    specs = [spec | {"log_layers": True} for spec in small_specs(project)]
    trained = helpers.train_all(specs, project, custom_cnn.prepare)
    changes = [runs.layer_log(run, "change") for run in trained]
    dead = [dead_filters_kept(run, project) for run in trained]
    assert not any(table.empty for table in changes)
    for run in trained:
        publish.keep_evidence(run)
        shutil.rmtree(run.folder)
    again = helpers.train_all(specs, project, never, [runs.LAYERS, DEAD_FILTERS])
    assert {run.folder.parent for run in again} == {places.RESULTS / "runs"}
    for run, change in zip(again, changes, strict=True):
        pd.testing.assert_frame_equal(runs.layer_log(run, "change"), change)
    assert [dead_filters_kept(run, project)["dead"].tolist() for run in again] == [of["dead"].tolist() for of in dead]
    assert [helpers.read_run(runs.folder_named(run.folder.name)).result for run in again] == [
        run.result for run in again
    ]


def test_evidence_without_what_is_needed_is_not_taken_and_is_added_to(project, kept):
    specs, _, _, _ = kept
    assert runs.find_runs(specs, [runs.NUMBERS, DEAD_FILTERS])[1] is None
    runs_now = helpers.train_all(specs, project, custom_cnn.prepare, DEAD_FILTERS)
    for run in runs_now:
        assert len(dead_filters_kept(run, project)["dead"]) == 3
        publish.keep_evidence(run)
        shutil.rmtree(run.folder)
    assert all(runs.find_runs(specs, DEAD_FILTERS))


def test_evidence_is_not_taken_when_everything_is_to_be_trained_again(kept, monkeypatch):
    specs, _, _, _ = kept
    assert runs.find_run(specs[0], runs.NUMBERS)
    monkeypatch.setenv("LEAVES_NO_EVIDENCE", "1")
    assert runs.find_run(specs[0], runs.NUMBERS) is None


def test_evidence_of_another_spec_or_damaged_evidence_is_not_taken(project, kept, capsys):
    specs, trained, _, _ = kept
    assert runs.find_run(specs[0] | {"seed": 99}, runs.NUMBERS) is None
    folder = places.RESULTS / "runs" / trained[0].folder.name
    (folder / "history.csv").write_text("epoch\n1\n", encoding="utf-8")
    assert runs.find_run(specs[0], runs.NUMBERS) is None
    [run, other] = helpers.train_all(specs, project, custom_cnn.prepare, runs.NUMBERS)
    assert (run.folder.parent, other.folder.parent) == (places.RUNS, places.RESULTS / "runs")
    publish.keep_evidence(run)  # made good
    shutil.rmtree(run.folder)
    assert runs.find_run(specs[0], runs.NUMBERS).folder == folder


# ---------------------------------------------------------------- the table of photos


@pytest.fixture
def two_folders(working_folder):
    """A folder of photos, one that holds them under other names and others too, and the table of the former."""
    rng = np.random.default_rng(0)
    for number, label in enumerate(["Ash", "Birch"] * 6):
        picture = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
        for folder, name in (("own", f"{label}/{number}.png"), ("whole", f"{label}___mildew/other {99 - number}.png")):
            file = working_folder / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)
    for label in ("Ash___rust", "Cedar"):
        (working_folder / "whole" / label).mkdir()
        picture = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
        picture.save(working_folder / "whole" / label / "more.png")
    table = working_folder / "photos.csv"
    hashes = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in working_folder.glob("own/*/*")}
    rows = [{"sha256": value, "name": f"{file.parent.name}/{file.name}"} for file, value in hashes.items()]
    pd.DataFrame(rows).to_csv(table, index=False)
    return working_folder, table


def split_of(folder):
    images, issues = photos.find_images(folder)
    images, _ = photos.inspect_images(images, 32)
    usable, pairs, issues = duplicates.keep_usable(images, issues, folder, 4)
    _, before = splitting.memory_of_split(seed=str(folder))
    usable, _ = splitting.split_photos(usable, pairs, 0.2, 0.2, 0, before)
    return splitting.write_split(usable, issues, str(folder), "photos", {})


def test_the_listed_photos_of_a_larger_collection_give_the_same_split(two_folders, capsys):
    folder, table = two_folders
    listed = sources.listed_photos(folder / "whole", str(table))
    assert "12 of the photos of photos.csv are in whole." in capsys.readouterr().out
    assert {file.parent.name for file in listed.glob("*/*")} == {"Ash", "Birch"}
    assert sources.listed_photos(listed, str(table)) == listed  # these are the data from now on
    assert split_of(listed).attrs["hash"] == split_of(folder / "own").attrs["hash"]
    assert sources.listed_photos(folder / "whole", str(table)) == listed


def test_a_table_of_photos_that_are_elsewhere_or_none_is_refused(two_folders):
    folder, table = two_folders
    (folder / "other" / "Ash").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(folder / "other" / "Ash" / "another.png")
    with pytest.raises(InputError, match=r"other has none of the photos of photos\.csv: name their folder with --data"):
        sources.listed_photos(folder / "other", str(table))
    table.write_text("path,label\n")
    with pytest.raises(InputError, match="not a CSV file with a column sha256"):
        sources.listed_photos(folder / "whole", str(table))


# ---------------------------------------------------------------- the published study


@pytest.fixture
def study(project, trained):
    """A project with a whole report of the study, as far as `publish` reads it."""
    assert not any(run.result["diverged"] for run in trained)
    write_atomic(places.SOURCE_JSON, json.dumps({"data": "/photos", "settings": {}}))
    for number in NUMBERS[1:]:
        write_atomic(places.RUNS / f"{number}.json", "{}")
    values = yaml.safe_load((ROOT / "notebooks" / "profiles" / "study.yaml").read_text(encoding="utf-8"))
    for chapter in CHAPTERS:
        own = {name: value for name, value in values.items() if name in chapter_parameters(chapter)}
        metadata = {"papermill": {"parameters": own}, "read": read_by(chapter.name[:2])}
        executed = nbformat.v4.new_notebook(metadata=metadata)
        write_atomic(places.REPORT / chapter.name, nbformat.writes(executed))
    for name in (*publish.TABLES, "report.html"):
        write_atomic(places.REPORT / name, f'{name} <figure id="figure-06-scores">\n')
    (places.REPORT / "figures").mkdir()
    ramp = np.arange(64 * 64).reshape(64, 64) // 2  # more than 256 colours
    colours = np.stack([ramp % 256, 255 - ramp % 256, ramp // 16, np.full_like(ramp, 255)], axis=2)
    Image.fromarray(colours.astype(np.uint8)).save(places.REPORT / "figures" / "06-scores.png")
    (places.ROOT / "figures").mkdir()
    (places.ROOT / "figures" / "old.png").write_bytes(b"")
    return project


def test_a_finished_study_is_published_with_the_checksum_of_every_file(study, capsys):
    publish.main()
    assert "results/runs has the evidence of 2 runs." in capsys.readouterr().out
    assert not (places.ROOT / "figures" / "old.png").exists()
    record = json.loads((places.RESULTS / "provenance.json").read_text(encoding="utf-8"))
    names = {f"results/{name}" for name in (*publish.TABLES, "report.html", "photos.csv")} | {"figures/06-scores.png"}
    assert {*record["files"]} == names
    for name, expected in record["files"].items():
        assert file_hash(places.ROOT / name) == expected
    assert (record["photos"], record["trainings"], record["split"]) == (len(study), 2, study.attrs["hash"])
    assert record["processors"] == {processor_kind(): 2}
    drawn, small = (Image.open(folder / "figures" / "06-scores.png") for folder in (places.REPORT, places.ROOT))
    assert (drawn.mode, small.mode) == ("RGBA", "P")
    apart = np.asarray(drawn.convert("RGB"), float) - np.asarray(small.convert("RGB"), float)
    assert 0 < np.abs(apart).mean() < 8
    table = pd.read_csv(places.RESULTS / "photos.csv")
    assert [*table.columns] == ["sha256", "name", "label", "split", "fold"]
    assert len(table) == len(study)
    before = (places.RESULTS / "provenance.json").read_bytes()
    publish.main()
    assert (places.RESULTS / "provenance.json").read_bytes() == before


def test_a_published_page_names_no_folder_of_its_machine(study):
    executed = nbformat.read(places.REPORT / CHAPTERS[0].name, as_version=4)
    executed.metadata["papermill"]["parameters"]["data"] = "/home/anna/oak & elm"
    write_atomic(places.REPORT / CHAPTERS[0].name, nbformat.writes(executed))
    page = '<p>--data "/home/anna/oak &amp; elm"</p><script>"/home/anna/oak & elm/1.png"</script>'
    write_atomic(places.REPORT / "report.html", page)
    publish.main()
    published = (places.RESULTS / "report.html").read_text(encoding="utf-8")
    assert published == '<p>--data "oak &amp; elm"</p><script>"oak & elm/1.png"</script>'


def test_only_whole_paths_are_shortened():
    page = 'data = "/photos" <a href="results/photos.csv"> /photos/Oak/1.jpg /photos-2 ../photos'
    shortened = 'data = "photos" <a href="results/photos.csv"> photos/Oak/1.jpg /photos-2 ../photos'
    assert publish.without_folders(page, ["/photos"]) == shortened
    assert publish.without_folders("<main>/main/Oak</main>", ["/main"]) == "<main>main/Oak</main>"
    with pytest.raises(InputError, match="The page names the folder /anna/oak where it cannot be shortened"):
        publish.without_folders("file:///anna/<wbr/>oak", ["/anna/oak"])
    assert publish.without_folders("/anna's oak &amp; elm/1", ["/anna's oak & elm"]) == "anna's oak &amp; elm/1"
    for page in ("../../anna/oak/1.jpg", "/anna/oak-old", "/anna/oakframe"):
        assert publish.without_folders(page, ["/anna/oak"]) == page


def test_a_path_that_may_break_is_shortened_too():
    table = '<table class="text"><tr><td>--data /home/some_body/leaves14</td></tr></table>'
    page = finish_page(f"<nav><!--contents--></nav><main>{table}</main>")
    assert "<wbr" in page
    assert "some" not in publish.without_folders(page, ["/home/some_body/leaves14"])
    assert "--data leaves14<" in publish.without_folders(page, ["/home/some_body/leaves14"])


def test_synthetic_leaves_are_not_published_and_leave_no_evidence(study):
    for source in ({"data": "sample"}, {"data": "/listed", "name": "synthetic leaves, 128 x 128 pixels"}):
        write_atomic(places.SOURCE_JSON, json.dumps(source))
        with pytest.raises(InputError, match="the present photos are synthetic"):
            publish.main()
    assert not places.RESULTS.exists()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda: (places.REPORT / "04_transfer_learning.ipynb").unlink(), "Chapter 04_transfer_learning did not reach"),
        (
            lambda: write_atomic(places.RUNS / "02.json", '{"new": 1}'),
            "Chapter 05_fine_tuning read a file that has changed since",
        ),
        (lambda: (places.REPORT / "verdicts.csv").unlink(), "report/verdicts.csv is missing"),
        (lambda: write_atomic(places.REPORT / "report.html", "x" * 6_100_000), "report.html, 6.1 MB"),
        (
            lambda: write_atomic(places.REPORT / "report.html", f"file://{places.ROOT}/x"),
            "where it cannot be shortened",
        ),
        (lambda: (places.REPORT / "report.html.sha256").write_text("0"), "report/report.html is missing or damaged"),
    ],
)
def test_an_unfinished_study_is_not_published_but_its_evidence_is_kept(study, spoil, sentence):
    spoil()
    with pytest.raises(InputError, match=sentence):
        publish.main()
    assert len([*(places.RESULTS / "runs").iterdir()]) == 2
    assert {file.name for file in places.RESULTS.iterdir()} == {"runs"}
    assert (places.ROOT / "figures" / "old.png").exists()


@pytest.mark.parametrize(("name", "value"), [("repeats", 1), ("balance", "oversample"), ("seed", 7)])
def test_a_run_with_other_settings_is_no_study(study, name, value):
    executed = places.REPORT / "02_custom_cnn.ipynb"
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.papermill.parameters[name] = value
    write_atomic(executed, nbformat.writes(notebook))
    with pytest.raises(InputError, match=f"Chapter 02_custom_cnn was executed with {name} {value!r}"):
        publish.main()


def test_a_study_is_published_in_stages_and_says_which_variants_it_has(study):
    executed = places.REPORT / "03_regularisation_ablations.ipynb"
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.papermill.parameters |= {"variants": ["no dropout", "ReLU"], "search_trials": 1}
    write_atomic(executed, nbformat.writes(notebook))
    publish.main()
    record = read_json(places.RESULTS / "provenance.json")
    assert record["parameters"] == {"variants": ["no dropout", "ReLU"], "search_trials": 1}
    assert record["command"].endswith("""-p search_trials 1 -p variants '["no dropout", "ReLU"]'""")
    facts = published.Study(record, *[None] * 3)
    told = " ".join(published.introduction(facts, ""))
    assert 'trained so far: "no dropout", "ReLU". Claims about other' in told
    assert "The study's search had 1 trial so far." in told
    assert "preliminary" in told


# ---------------------------------------------------------------- on the page of another run


SCORES = pd.DataFrame(
    [
        ("FinalModel", 2, "none", 531_374, 30.5, 0.75, 0.70, 0.80, 0.15),
        ("FinalModel (tuned)", 3, "none", 531_374, 30.5, 0.75, 0.70, 0.80, 0.15),  # the search found nothing better
        ("ResNet50", 4, "imagenet", 24_643_982, 60.5, 0.90, 0.85, 0.95, np.nan),
        ("ResNet50", 5, "imagenet", 24_643_982, 90.5, 0.95, 0.92, 0.97, np.nan),
        ("EfficientNetB4", 5, "random", 18_599_021, 9.5, 0.99, 0.98, 1.0, np.nan),
        ("Ensemble", 6, "imagenet", 43_704_586, 130.5, 0.97, 0.96, 0.98, np.nan),  # last, although its score is highest
    ],
    columns=[
        "model",
        "chapter",
        "initial_weights",
        "params",
        "train_seconds",
        "test_macro_f1",
        "test_macro_f1_low",
        "test_macro_f1_high",
    ]
    + ["replaced_background_macro_f1"],
)


@pytest.fixture
def published_results(study):
    verdicts = pd.DataFrame({"claim": ["C1", "C2", "C3"], "verdict": ["refuted", "confirmed", "refuted"]})
    write_atomic(places.REPORT / "scores.csv", SCORES.to_csv(index=False))
    write_atomic(places.REPORT / "ranking.csv", 'model,score\n"ResNet50, fine tuning",0.9\nFinalModel,0.7\n')
    write_atomic(places.REPORT / "verdicts.csv", verdicts.to_csv(index=False))
    publish.main()
    write_atomic(
        places.REPORT / "scores.csv", SCORES.assign(test_macro_f1=[0.5, 0.5, 0.8, 0.96, 0.2, 0.97]).to_csv(index=False)
    )
    return study


def columns_of(html):
    """The columns of an HTML table: dict of title to list of str."""
    found = BeautifulSoup(html, "html.parser").find_all("tr")
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in found]
    return {title: list(cells) for title, *cells in zip(*rows, strict=True)}


def test_the_table_of_claims_has_the_published_verdicts(published_results):
    columns = {"said": "that", "evidence": "this", "verdict": ["undecided", "not tested"], "reason": "", "figure": "x"}
    verdicts = pd.DataFrame({"claim": ["C2", "C1"], **columns})
    table = tables.style_claims(verdicts).data
    assert table.loc["C1", "published study"] == "refuted"
    assert table.loc["C2", "published study"] == "confirmed"
    assert table["verdict"].tolist() == ["undecided", "not tested"]


def test_the_page_of_a_run_on_other_photos_shows_the_published_study_beside_it(published_results):
    write_atomic(places.SOURCE_JSON, '{"split": "another"}')
    section = render.study_section({})
    assert section["tally"] == "1 confirmed (C2), 2 refuted (C1, C3)"
    best, small = "<strong>0.950</strong> (95 % interval 0.920 to 0.970)", "0.750 (0.700 to 0.800)"
    assert section["answer"].startswith(
        "the best single model, chosen on validation, is "
        f"<strong>ResNet50, fine tuning</strong>: macro F1 {best} on test."
    )
    assert section["answer"].endswith(f", reaches {small}. Claims: {section['tally']}.")
    assert f"{len(published_results)} photos of 2 species; its 2 trainings took" in section["sentences"][0]
    assert not [sentence for sentence in section["sentences"] if "same split" in sentence]
    best, beside = map(columns_of, section["tables"].values())
    names = ["ResNet50, fine tuning", "ResNet50, transfer learning", "FinalModel"]
    assert best["model"] == [*names, "Ensemble"]  # no control; the best single model first
    assert best["macro F1 (95 % interval)"][:3:2] == ["0.950 (0.920 to 0.970)", "0.750 (0.700 to 0.800)"]
    assert beside["model"] == [*names[::-1], "Ensemble"]
    assert beside["this run"] == ["0.500", "0.800", "0.960", "0.970"]
    assert beside["difference"] == ["-0.250", "-0.100", "+0.010", "+0.000"]


def test_on_the_same_photos_nothing_is_compared(published_results):
    write_atomic(places.SOURCE_JSON, json.dumps({"split": published_results.attrs["hash"]}))
    section = render.study_section({})
    assert section["sentences"][-1] == "This run has the same photos and the same split."
    assert len(section["tables"]) == 1


def test_without_a_published_study_the_page_has_no_section(working_folder):
    assert published.published_study() is None
    assert render.study_section({}) is None


# ---------------------------------------------------------------- what is committed


@pytest.mark.parametrize("folder", sorted((ROOT / "results" / "runs").glob("*")), ids=lambda folder: folder.name)
def test_committed_evidence_is_whole(folder):
    spec = read_json(folder / "spec.json")
    assert runs.fault_of_run(folder, spec) is None
    assert folder.name.endswith(runs.spec_hash(spec))
    run = runs.Run(folder, spec, read_json(folder / "result.json"))
    assert len(run.history) == run.result["epochs"]
    assert run.validation_probabilities.sum(axis=1) == pytest.approx(1, abs=0.01)
