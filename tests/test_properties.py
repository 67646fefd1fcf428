"""What must hold for any split, any spec and any evidence: examples are drawn by hypothesis, the same in every run.

More of them, and others each time: EXAMPLES=1000 ./run_tests.sh tests/test_properties.py
"""

import json
import os
from types import SimpleNamespace

from leaves import claims, runs, splitting
from leaves.evaluation import compare_with
from leaves.files import InputError

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
settings.register_profile(
    "suite",
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    max_examples=EXAMPLES or 25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

# ---------------------------------------------------------------- the split

SHARES = some.floats(0.02, 0.5)
SEEDS = some.integers(0, 2**31 - 1)


@some.composite
def photo_tables(draw, prefix="photo"):
    """Photos of two classes or more and pairs that are alike, some of them of two classes: two DataFrames."""
    sizes = draw(some.lists(some.integers(5, 25), min_size=2, max_size=8))
    labels = np.repeat([f"class {number}" for number in range(len(sizes))], sizes)
    names = np.array([f"{prefix} {number:03d}" for number in range(len(labels))])
    rng = np.random.default_rng(draw(SEEDS))
    photos = pd.DataFrame({"sha256": names, "path": names, "label": labels})
    count = draw(some.integers(0, len(names) // 3))
    first, second = rng.integers(0, len(names), (2, count))
    near = np.clip(first + rng.integers(-3, 4, count), 0, len(names) - 1)  # most of one class
    second = np.where(rng.random(count) < 0.9, near, second)
    return photos, pd.DataFrame({"first": names[first], "second": names[second]})


def groups_of_one_class(photos, pairs):
    """How many groups of each class hold photos of this class alone: Series."""
    grouped = photos.assign(group=splitting.group_photos(photos["sha256"], pairs)).groupby("group")["label"]
    pure = grouped.first()[grouped.agg(lambda labels: len({*labels})) == 1]
    return pure.value_counts().reindex(photos["label"].unique(), fill_value=0)


def split_of(photos):
    return photos.set_index("sha256")["split"]


@given(photo_tables(), SHARES, SHARES, SEEDS)
def test_any_split_keeps_its_promises(table, validation, test, seed):
    photos, pairs = table
    try:
        divided, issues = splitting.split_photos(photos, pairs, validation, test, seed, {})
    except InputError as error:
        assert groups_of_one_class(photos, pairs).min() < 3, error  # with three groups there is one for each subset
        assert "add photos" in str(error)
        return
    assert issues.empty
    assert divided["sha256"].tolist() == photos["sha256"].tolist()  # every photo once
    assert set(divided["split"]) == {"train", "validation", "test"}
    assert divided.groupby("group")[["split", "fold"]].nunique().max().max() == 1
    for column in ("group", "split", "fold"):
        of_photo = divided.set_index("sha256")[column]
        assert of_photo[pairs["first"]].tolist() == of_photo[pairs["second"]].tolist()
    assert pd.crosstab(divided["label"], divided["split"]).to_numpy().min() >= 1
    assert set(divided.loc[divided["split"] == "validation", "fold"]) == {0}
    assert set(divided.loc[divided["split"] == "test", "fold"]) == {-1}
    assert sorted(set(divided["fold"])) == [*range(-1, divided["fold"].max() + 1)]  # none is empty
    again, _ = splitting.split_photos(photos, pairs, validation, test, seed, {})
    pd.testing.assert_frame_equal(divided, again)


@given(photo_tables(), photo_tables(prefix="added"), SEEDS, SEEDS)
def test_added_photos_move_no_photo_whatever_they_are_like(table, added, seed, another):
    photos, pairs = table
    try:
        first, _ = splitting.split_photos(photos, pairs, 0.2, 0.2, seed, {})
    except InputError:
        return
    rng, before = np.random.default_rng(another), split_of(first).to_dict()
    photos, more = pd.concat([photos, added[0]], ignore_index=True), len(added[0]) // 4
    like = {"first": rng.choice(added[0]["sha256"], more), "second": rng.choice(first["sha256"], more)}
    pairs = pd.concat([pairs, added[1], pd.DataFrame(like)], ignore_index=True)
    try:
        second, issues = splitting.split_photos(photos, pairs, 0.2, 0.2, another, before)
    except InputError:  # a class that is new, and too much like others
        return
    assert split_of(second)[[*before]].to_dict() == before
    assert sorted([*second["sha256"], *issues["path"]]) == sorted(photos["sha256"])
    assert issues["path"].str.startswith("added").all()
    assert second.groupby("group")["split"].nunique().max() == 1


# ---------------------------------------------------------------- the hash of a spec

PLAIN = (
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False, allow_infinity=False) | some.text()
)
VALUES = some.recursive(
    PLAIN,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = some.text().filter(lambda key: key not in ("chapter", "name", "schema"))
SPECS = some.dictionaries(KEYS, VALUES, min_size=1, max_size=6)


def reordered(value):
    """The same value with the keys of all dicts in reverse, and tuples in place of lists."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return tuple(map(reordered, value)) if isinstance(value, list) else value


@given(SPECS)
def test_a_spec_has_one_hash_however_it_is_written(spec):
    expected = runs.spec_hash(spec)
    assert runs.spec_hash(reordered(spec)) == expected
    assert runs.spec_hash(json.loads(json.dumps(spec))) == expected
    assert runs.spec_hash(spec | {"chapter": "05", "name": "another", "schema": 0}) == expected
    assert runs.without_labels(reordered(spec)) == runs.without_labels(spec)


@given(SPECS, VALUES, some.data())
def test_any_changed_value_changes_the_hash(spec, value, data):
    key = data.draw(some.sampled_from(sorted(spec)))
    is_same = json.dumps(value, sort_keys=True) == json.dumps(spec[key], sort_keys=True)
    assert (runs.spec_hash(spec | {key: value}) == runs.spec_hash(spec)) == is_same
    assert runs.spec_hash({other: spec[other] for other in spec if other != key}) != runs.spec_hash(spec)
    assert runs.spec_hash({"inner": spec | {key: [value, spec[key]]}}) != runs.spec_hash({"inner": spec})


# ---------------------------------------------------------------- verdicts

DIFFERENCES = some.builds(
    lambda mean, spread, noise: [mean + spread * value for value in noise],
    some.floats(-0.3, 0.3),
    some.sampled_from([0.0, 0.003, 0.02, 0.2]),
    some.lists(some.floats(-1, 1), min_size=3, max_size=8),
)
FAMILIES = some.lists(DIFFERENCES, min_size=1, max_size=8).map(
    lambda rows: {n: np.array(row) for n, row in enumerate(rows)}
)
STATEMENTS = some.sampled_from(sorted(claims.CONFIRM))
MIRROR = {"higher": "lower", "lower": "higher", "not higher": "not lower", "not lower": "not higher"}
FOLDS = some.integers(3, 10)


def verdict(statement, outcome):
    """The verdict on a statement by what was shown."""
    confirmed, refuted = outcome in claims.CONFIRM[statement], outcome in claims.REFUTE[statement]
    assert not (confirmed and refuted)
    return "confirmed" if confirmed else "refuted" if refuted else "undecided"


def judged(compared, folds):
    """The table of verdicts on statements about differences: list of (statement, differences, margin)."""
    records = [
        {
            "claim": f"C{number}",
            "said": "",
            "figure": "",
            "comparisons": [claims.evidence("x", word, row, margin=margin)],
        }
        for number, (word, row, margin) in enumerate(compared)
    ]
    return claims.judge(records, folds)


@given(some.lists(some.tuples(STATEMENTS, DIFFERENCES, some.sampled_from([0.0, 0.05])), min_size=1, max_size=6), FOLDS)
def test_every_claim_has_one_verdict_and_a_reason(compared, folds):
    table = judged(compared, folds)
    assert table["claim"].tolist() == [f"C{number}" for number in range(len(compared))]
    assert table["verdict"].isin(["confirmed", "refuted", "undecided"]).all()
    assert table.loc[table["verdict"] == "undecided", "reason"].str.contains(r"\d+ (?:repeats|folds) would").all()


@given(FAMILIES, FOLDS)
def test_swapped_sides_swap_higher_and_lower(family, folds):
    """Opposite statements are never both confirmed, and a claim and its mirror have the same verdict."""
    shown = claims.outcomes(claims.compare(family, folds))
    swapped = claims.outcomes(claims.compare({name: -row for name, row in family.items()}, folds))
    assert swapped == {name: MIRROR.get(word, word) for name, word in shown.items()}
    for name, word in shown.items():
        for statement in claims.CONFIRM:
            assert verdict(statement, word) == verdict(MIRROR.get(statement, statement), swapped[name])
        confirmed = {statement for statement in claims.CONFIRM if verdict(statement, word) == "confirmed"}
        for pair in ({"higher", "lower"}, {"higher", "not higher"}, {"lower", "not lower"}, {"same", "higher"}):
            assert not pair <= confirmed


@given(FAMILIES, FOLDS, some.data())
def test_more_correction_never_decides_more(family, folds, data):
    compared = claims.compare(family, folds)
    few = data.draw(some.sets(some.sampled_from(sorted(compared)), min_size=1))
    alone, among = claims.outcomes({name: compared[name] for name in few}), claims.outcomes(compared)
    for name in few:
        for statement in claims.CONFIRM:
            later = verdict(statement, among[name])
            assert later in ("undecided", verdict(statement, alone[name]))


STATES = some.lists(some.tuples(*[some.sampled_from(["converged", "still rising"])] * 2), min_size=1, max_size=6)


@given(STATES, STATEMENTS, some.floats(-0.5, 0.5))
def test_fewer_than_three_pairs_never_decide(states, statement, difference):
    def run(state, score):
        return SimpleNamespace(result={"state": state, "score": score})

    sides = [[run(pair[side], side * difference) for pair in states] for side in (1, 0)]
    row = claims.evidence("x", statement, **claims.pairs(*sides, lambda run: run.result["score"]))
    record = {"claim": "C1", "said": "", "figure": "", "comparisons": [row]}
    [word] = claims.judge([record], 5)["verdict"]
    if states.count(("converged", "converged")) < claims.LEAST_REPEATS:
        assert word == "undecided"


@given(some.lists(some.floats(-0.3, 0.3), min_size=3, max_size=3).map(sorted))
def test_a_tie_is_an_interval_inside_the_margin(interval):
    low, difference, high = interval
    answers = SimpleNamespace(difference=lambda label, best, draws: (difference, low, high))
    word = compare_with("best", ["other", "best"], answers, 1).loc["other", "verdict"]
    assert (word == "tie") == (low > -claims.MARGIN and high < claims.MARGIN)
    assert word != "better" or low > 0
    assert word != "worse" or high < 0
    if low <= 0 <= high:
        assert word in ("tie", "undecided")
