"""Networks from which others start: trained again only if only their evidence is left, and a child needs them."""

import functools
import shutil

import helpers
from conftest import ROOT
from leaves import any_background, distillation, parents, places, runs, transfer
from leaves.backbones import find_weights
from leaves.files import InputError, read_json, write_json
from leaves.report.publish import keep_evidence

import pytest

LITE = "EfficientNetLite0"
HEAD = [["Dense", {"units": 2, "activation": "softmax"}]]


def tails_of(split, heads):
    settings = {"epochs": 1, "learning_rate": 0.0001, "patience": None, "balance": "none"}
    return [transfer.tail_spec(head, split, **settings) for head in heads]


@pytest.fixture(scope="module")
def stored_evidence(tmp_path_factory):
    return tmp_path_factory.mktemp("evidence") / "runs"


@pytest.fixture
def kept(project, stored_evidence):
    """A project that keeps only the evidence of two heads and of the two tails that start from them."""
    origins = find_weights([LITE], "weights")  # EfficientNetLite0's come with a package
    views = {"count": 0, "augmentation": None, "seed": 0}
    settings = {"layers": HEAD, "image_size": 32, "epochs": 1, "patience": None, "balance": "none"}
    specs = transfer.head_specs(LITE, origins[LITE], project, [0.001], 7, 2, views, precision="float32", **settings)
    prepare = functools.partial(transfer.prepare_head, origins=origins)
    if not stored_evidence.exists():
        heads = helpers.train_all(specs, project, prepare)
        tails = helpers.train_all(tails_of(project, heads), project, transfer.prepare_tail)
        for run in [*heads, *tails]:
            keep_evidence(run)
            shutil.rmtree(run.folder)
        shutil.copytree(places.RESULTS / "runs", stored_evidence)
    shutil.copytree(stored_evidence, places.RESULTS / "runs", dirs_exist_ok=True)
    tails = tails_of(project, runs.find_runs(specs, runs.NUMBERS))
    return {"heads": specs, "tails": tails, "prepare": prepare}


def again_in(split):
    return functools.partial(parents.with_weights, helpers.train_all, split, "weights")


def trained_folders():
    return sorted(folder.parent.name for folder in places.RUNS.glob("*/result.json"))


def test_the_first_repeats_need_weights_and_the_others_numbers():
    specs = [{"seed": seed} for seed in (3, 4, 5, 3, 4, 5)]
    assert parents.needed_files(specs) == [runs.WEIGHTS, runs.NUMBERS, runs.NUMBERS] * 2
    assert parents.needed_files([]) == []


def test_the_other_repeats_are_not_trained_for_their_numbers(project, kept):
    heads = helpers.train_all(kept["heads"], project, kept["prepare"], parents.needed_files(kept["heads"]))
    assert [run.folder.parent for run in heads] == [places.RUNS, places.RESULTS / "runs"]
    heads = again_in(project)(heads, functools.partial(tails_of, project))
    queue = tails_of(project, heads)
    assert queue == kept["tails"]  # the spec holds a hash of the unrounded predictions, which the evidence knows
    tails = helpers.train_all(queue, project, transfer.prepare_tail, parents.needed_files(queue))
    assert [run.folder.parent for run in tails] == [places.RUNS, places.RESULTS / "runs"]
    assert trained_folders() == sorted(run.folder.name for run in (heads[0], tails[0]))


def test_a_parent_is_trained_again_if_its_child_has_to_be(project, kept):
    shutil.rmtree(places.RESULTS / "runs" / f"05-{LITE}-{runs.spec_hash(kept['tails'][1])}")
    heads = helpers.train_all(kept["heads"], project, kept["prepare"], parents.needed_files(kept["heads"]))
    heads = again_in(project)(heads, functools.partial(tails_of, project))
    assert {run.folder.parent for run in heads} == {places.RUNS}
    assert tails_of(project, heads) == kept["tails"]
    assert len(helpers.train_all(kept["tails"], project, transfer.prepare_tail)) == 2


def test_a_tail_is_trained_again_after_its_head(project, kept):
    tails = runs.find_runs(kept["tails"], runs.NUMBERS)
    found = again_in(project)(tails, any_background.mean_specs)  # the means of both exist nowhere
    assert {run.folder.parent for run in found} == {places.RUNS}
    assert [run.identity for run in found] == [run.identity for run in tails]
    assert len(trained_folders()) == 4
    assert any_background.mean_of_both(found[1], project).load_model()


def test_a_teacher_answers_even_if_only_the_evidence_of_its_head_is_left(project, kept):
    [teacher] = again_in(project)(runs.find_runs(kept["tails"][:1], runs.NUMBERS), any_background.mean_specs)
    shutil.rmtree(places.RUNS / teacher.spec["starts_from"].split()[0])
    answers = distillation.teacher_answers(teacher, project)
    assert answers.shape == ((project["split"] != "test").sum(), 2)
    assert answers.sum(axis=1) == pytest.approx(1, abs=1e-5)


def from_another_processor(head, tail):
    """Change the evidence of a head and of its tail, as if the head had had other predictions; the tail's new spec."""
    folder = places.RESULTS / "runs" / f"04-{LITE}-{runs.spec_hash(head)}"
    result = read_json(folder / "result.json")
    write_json(folder / "result.json", result | {"predictions": "other"})
    spec = tail | {"starts_from": f"{folder.name} other"}
    moved = places.RESULTS / "runs" / f"05-{LITE}-{runs.spec_hash(spec)}"
    (places.RESULTS / "runs" / f"05-{LITE}-{runs.spec_hash(tail)}").rename(moved)
    write_json(moved / "spec.json", spec)
    return spec


def test_evidence_of_another_processor_is_used_as_a_whole_or_not_at_all(project, kept):
    specs = [kept["tails"][0], from_another_processor(kept["heads"][1], kept["tails"][1])]
    heads = runs.find_runs(kept["heads"], runs.NUMBERS)
    assert tails_of(project, heads) == specs
    tails = runs.find_runs(specs, runs.NUMBERS)
    again = again_in(project)(tails, any_background.mean_specs)  # a child of each tail has to be trained
    assert all((run.folder / runs.WEIGHTS).exists() for run in again)
    assert [run.spec for run in again] == kept["tails"]  # here the second head has its old predictions again
    for run in again:
        head = runs.read_run(places.RUNS / run.spec["starts_from"].split()[0])
        assert run.spec["starts_from"] == head.identity
    starting = parents.replaced(heads, [head])
    assert [run.folder.parent for run in starting] == [places.RESULTS / "runs", places.RUNS]


def test_a_mean_of_weights_is_read_from_its_evidence(project, kept):
    tails = again_in(project)(runs.find_runs(kept["tails"], runs.NUMBERS), any_background.mean_specs)
    mean = any_background.mean_of_both(tails[1], project)
    keep_evidence(mean)
    for run in (mean, *tails):
        shutil.rmtree(run.folder)
    [_, tail] = runs.find_runs(kept["tails"], runs.NUMBERS)
    again = any_background.mean_of_both(tail, project)
    assert again.folder.parent == places.RESULTS / "runs"
    assert again.result["validation_macro_f1"] == mean.result["validation_macro_f1"]


def test_a_damaged_run_gives_way_to_its_evidence(project, kept, capsys):
    [run] = helpers.train_all(kept["heads"][:1], project, kept["prepare"])
    assert runs.folder_named(run.folder.name) == run.folder
    (run.folder / runs.WEIGHTS).write_bytes(b"damaged")
    assert runs.folder_named(run.folder.name) == places.RESULTS / "runs" / run.folder.name
    assert f"runs/{run.folder.name} cannot be used: model.keras is damaged." in capsys.readouterr().out


def test_a_chapter_trains_the_first_repeats_that_have_no_weights(project, kept, monkeypatch):
    monkeypatch.setattr(parents, "wider_specs", lambda *_: [])
    train = functools.partial(helpers.train_all, split=project, prepare=kept["prepare"])
    [first, second] = parents.trained_heads(train, kept["heads"], [0.001])
    assert [first.spec, second.spec] == kept["heads"]
    assert (first.folder / runs.WEIGHTS).exists()
    assert second.folder.parent == places.RESULTS / "runs"


def test_further_learning_rates_are_tried_on_both_sides(project, kept, monkeypatch):
    monkeypatch.setattr(transfer, "MOST_STEPS", 1)
    train = functools.partial(helpers.train_all, split=project, prepare=kept["prepare"])
    trained = parents.trained_heads(train, kept["heads"], [0.001])
    assert [transfer.rate_of(run) for run in trained] == [0.001, 0.001, 0.0003, 0.0003, 0.003, 0.003]
    [best] = transfer.at_best_rate(trained).values()
    assert (best[0].folder / runs.WEIGHTS).exists()


PUBLISHED = ROOT / "results" / "runs"


def children():
    """Each published run that starts from another one or learns from a teacher, with its parent and their times."""
    for file in sorted(PUBLISHED.glob("*/spec.json")):
        spec, result = read_json(file), read_json(file.with_name("result.json"))
        of_teacher = spec.get("teacher", {}).get("run")
        parent = spec.get("mean_with_start") or spec.get("starts_from") or of_teacher
        if parent and (known := read_json(PUBLISHED / parent.split()[0] / "result.json")):
            before = known.get("seconds_before", 0) + known["train_seconds"]
            if "mean_with_start" in spec:
                same = result["train_seconds"] == known["train_seconds"]
            else:
                same = abs(result["teacher_seconds" if of_teacher else "seconds_before"] - before) < 0.02
            yield parent.split(), known.get("predictions"), same


def test_the_published_parents_have_the_predictions_that_their_children_name():
    found = list(children())
    assert sum(named == predictions for (_, named), predictions, _ in found) >= 40
    for (name, named), predictions, same in found:
        if same:  # the child started from just this training of its parent, as the times show
            assert named == predictions, name


def test_with_other_weights_a_head_is_not_trained_again(project, kept, monkeypatch):
    monkeypatch.setattr(parents, "find_weights", lambda *_: {LITE: {"hash": "other"}})
    heads = runs.find_runs(kept["heads"], runs.NUMBERS)
    with pytest.raises(InputError, match="Chapter 4 used other weights of EfficientNetLite0"):
        again_in(project)(heads, lambda found: [spec | {"seed": 99} for spec in kept["tails"]])
