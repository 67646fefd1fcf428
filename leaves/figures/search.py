"""Show the search of chapter 3 in a table and in words."""

from leaves.claims import count_text
from leaves.plots import table_of_texts
from leaves.search import FINAL


def last_scores(search):
    """Return the mean scores of the trials in the last round (Series of float), and its number of repeats (int)."""
    last = search.rounds[search.rounds["round"] == search.rounds["round"].max()]
    return last.set_index("number")["score"], int(last["repeats"].iloc[0])


def finding(search):
    """Describe the result of a `search.Search` in a few sentences."""
    (scores, repeats), trials = last_scores(search), search.rounds["number"].nunique()
    if trials == 1:
        return "There was no search, because FinalModel was the only trial."
    rounds, over = search.rounds["round"].nunique(), f"mean of {count_text(repeats, 'repeat')}"
    text = (
        f"The search compared {count_text(trials, 'network')}, including FinalModel, in {count_text(rounds, 'round')}."
    )
    if search.number == FINAL:
        return (
            f"{text} FinalModel is kept: no other network beat its validation macro F1 of {scores[FINAL]:.3f} ({over})."
        )
    best, final = scores[search.number], scores[FINAL]
    return (
        f"{text} Trial {search.number} has a validation macro F1 of {best:.3f} and FinalModel {final:.3f} ({over}). "
        f"The difference of {best - final:+.3f} is optimistic: the best of {trials} trials was chosen by this score."
    )


def style_rounds(search):
    """Format a table of the ten best trials of a search; return a pandas Styler.

    Each row shows a trial in the last round that it reached. Trials that reached a later round come first. Within a
    round, trials with a higher score come first.
    """
    last = search.rounds.groupby("number").tail(1).sort_values(["round", "score"], ascending=False).head(10)
    points = [trial.params for trial in search.study.trials]
    table = last[["number", "epochs", "repeats", "score", "state"]].rename(columns={"number": "trial"})
    table["differs from FinalModel in"] = [point_in_words(points[number], points[FINAL]) for number in last["number"]]
    count = search.rounds["number"].nunique()
    title = f"{'The only trial' if count == 1 else f'The best of {count} trials'}; trial {FINAL} is FinalModel"
    return table_of_texts(table.style.hide().format({"score": "{:.3f}"})).set_caption(title)


def point_in_words(point, final):
    """List the settings in which a point of the search space differs from FinalModel, as in "depth 4, L2 0.001"."""
    changed = {name: value for name, value in point.items() if value != final[name]}
    texts = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in changed.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items()) or "no setting"
