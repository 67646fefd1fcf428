"""Make chapter 6's tables (scores, claims, confusion matrix) and show photos (mistakes, and one classified photo)."""

import base64
import io
from collections import Counter
from html import escape

from leaves import places
from leaves.claims import count_text
from leaves.evaluation import f1_per_class, validation_score
from leaves.plots import table_of_texts
from leaves.published import DECIDED, by_score, published_study, tally

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.metrics import confusion_matrix

THUMBNAIL, LARGE = 72, 224  # pixels per side of a photo: in the confusion matrix; among the mistakes or alone
MOST_PHOTOS = 12  # largest number of photos that are shown for one cell of the confusion matrix
# The mark of each verdict, which is also readable without its colour.
MARKS = {"confirmed": "✓", "refuted": "✗", "undecided": "?", "not tested": "–"}


# ---------------------------------------------------------------- scores


def interval_text(row):
    """Write a model's test macro F1 with its interval, as in "0.857 (0.782 to 0.917)"."""
    return f"{row['test_macro_f1']:.3f} ({row['test_macro_f1_low']:.3f} to {row['test_macro_f1_high']:.3f})"


def style_summary(scores, best, external=None):
    """Make the table "Scores and costs" at the top of the page, with its rows in the order of `published.by_score`.

    Parameters
    ----------
    scores : DataFrame from `evaluation.score_table`, the rows to show
    best : str
        Label of the single model that validation chose; its row is bold.
    external : `evaluation.Answers` to the photos of `--test` if they have labels, else None

    Returns
    -------
    pandas Styler
    """
    ordered = by_score(scores)
    shown = {
        "macro F1 (95 % interval)": ordered.apply(interval_text, axis=1),
        "on other backgrounds": ordered["replaced_background_macro_f1"].astype(float),
        "parameters": ordered["params"],
        "ms per image": ordered["ms_per_image"],
    }
    if external:
        shown["second test set"] = ordered["external_macro_f1"].astype(float)
    table = pd.DataFrame(shown).dropna(axis=1, how="all").rename_axis(None).rename_axis(columns="model")
    formats = {"parameters": "{:,}", "ms per image": "{:.1f}"}
    formats |= {name: "{:.3f}" for name in ("on other backgrounds", "second test set") if name in table}
    return with_bold_row(table.style.format(formats, na_rep=""), best).set_caption(
        "Validation chose the bold model; the last two rows average predictions. "
        "Times are for single images, on this run's computer."
    )


def style_scores(scores, against, repeats, best):
    """Make the table of all scores, with intervals and comparisons with the model `best`, whose row is bold.

    Parameters
    ----------
    scores, best : see `style_summary`
    against : DataFrame from `evaluation.compare_with`
    repeats : dict of label to list of Run

    Returns
    -------
    pandas Styler
    """
    means = {label: np.mean([*map(validation_score, runs)]) for label, runs in repeats.items() if len(runs) > 1}
    texts = {label: f"{mean:.3f} ({len(repeats[label])} repeats)" for label, mean in means.items()}
    shown = {
        "test macro F1 (95 % interval)": scores.apply(interval_text, axis=1),
        "against the best": against["verdict"],
        "test accuracy": scores["test_accuracy"],
        "validation macro F1": scores["validation_macro_f1"],
        "mean of the repeats": pd.Series(texts, dtype=object).reindex(scores.index),
        "original score": scores["original_score"],
    }
    order = by_score(scores).index
    shown = pd.DataFrame(shown).loc[order].dropna(axis=1, how="all").rename_axis(None).rename_axis(columns="model")
    formats = {"test accuracy": "{:.3f}", "validation macro F1": "{:.3f}"}
    return with_bold_row(shown.style.format(formats | {"original score": "{:.4f}"}, na_rep=""), best)


def with_bold_row(style, best):
    """Make one model's row in a table of scores bold, including the model's name in the index: pandas Styler."""
    style = style.set_table_attributes('class="cards scores"')
    style = style.apply(lambda row: ["font-weight: bold" if row.name == best else ""] * len(row), axis=1)
    return style.apply_index(lambda names: ["font-weight: bold" if name == best else "" for name in names])


# ---------------------------------------------------------------- claims


def verdict_html(verdict):
    """Write a verdict with its mark, in its colour: HTML."""
    return f'<span class="verdict {verdict.replace(" ", "-")}">{MARKS[verdict]} {verdict}</span>'


def style_claims(verdicts):
    """Make a table with one row per claim: pandas Styler.

    The columns are what the original study says, this run's evidence, the verdict of the published study if there is
    one, this run's verdict, and a link to a figure.

    Parameters
    ----------
    verdicts : DataFrame, see `claims.judge`
    """
    table = verdicts.set_index("claim").rename_axis(None).rename(columns={"said": "the original study says"})
    told = table[["evidence", "reason"]].fillna("").agg(lambda row: "; ".join(filter(None, row)), axis=1)
    table = table.drop(columns="reason").assign(evidence=told).rename(columns={"evidence": "this run's evidence"})
    drawn = {file.stem for file in (places.REPORT / "figures").glob("*.png")}
    figures = table.pop("figure").where(table["verdict"] != "not tested", "")
    link = '<a href="#figure-{0}" title="{0}">figure</a>'
    table["chart"] = [link.format(name) if name in drawn else "" for name in figures]
    if study := published_study():
        verdict = study.verdicts.set_index("claim")["verdict"].reindex(table.index)  # a claim of the reader's has none
        table.insert(2, "published study", verdict.fillna(""))
    caption = f"{len(table)} claims of the original study: {tally(verdicts)}"
    style = table.style.format({"verdict": verdict_html}).set_caption(caption)
    return table_of_texts(style, "text cards claims")


def tally_html(verdicts):
    """Make an HTML table with one row per verdict, and the claims with this verdict: on real photos, and in this run.

    A cell has the number of claims and links to them, with the original study's words if the claims are decided.
    Without a published study, the column for real photos is missing.

    Parameters
    ----------
    verdicts : DataFrame with the columns claim, said and verdict
    """
    study = published_study()
    columns = {"real photos (the published study)": study.verdicts} if study else {}
    columns["this run"] = verdicts
    head = "".join(f"<th scope='col'>{name}</th>" for name in ["verdict", *columns])
    rows, linked = [], {*verdicts["claim"]}
    for verdict in MARKS:
        claims = {name: table[table["verdict"] == verdict] for name, table in columns.items()}
        if any(map(len, claims.values())):
            cells = "".join(f"<td>{claims_html(having, linked)}</td>" for having in claims.values())
            rows.append(f"<tr><th scope='row'>{verdict_html(verdict)}</th>{cells}</tr>")
    return f"<table class='tally text cards'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def claims_html(having, linked):
    """Count and list claims that have one verdict: HTML; `having` as `verdicts` in `tally_html`, `linked` is a set."""
    decided = having["verdict"].isin(DECIDED).any()
    lines = [f'<a href="#claim-{name}">{name}</a>' if name in linked else name for name in having["claim"]]
    if decided:
        words = [said.partition(" (question")[0] for said in having["said"].fillna("")]  # without an open question
        lines = [f"{link} {escape(said)}" for link, said in zip(lines, words, strict=True)]
    return f"<b>{len(having)}</b>{('<br>' if decided else ' ').join(lines)}"


# ---------------------------------------------------------------- mistakes


def picture_html(image, side, text):
    """Make an HTML element of a photo, at most `side` pixels per side, with alternative text."""
    smaller, out = Image.fromarray(image).convert("RGB"), io.BytesIO()
    smaller.thumbnail((side, side))
    smaller.save(out, "WEBP", quality=75, method=4)
    content = base64.b64encode(out.getvalue()).decode()
    return f'<img src="data:image/webp;base64,{content}" alt="{escape(text)}" width="{smaller.width}">'


def confusion_html(answers, label, images, classes):
    """Make the confusion matrix of a model as an HTML table of counts.

    On the page, a reader points at, taps or focuses a count to see at most `MOST_PHOTOS` of its photos.

    Parameters
    ----------
    answers : `evaluation.Answers`
    label : str
    images : array or StoredImages, uint8, shape (n, size, size, 3), the photos of the answers
    classes : list of str

    Returns
    -------
    str
    """
    truth, predicted = answers.truth, answers.predicted[label]
    counts = confusion_matrix(truth, predicted, labels=range(len(classes)))
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in classes)
    rows = []
    for true, name in enumerate(classes):
        cells = []
        for taken, other in enumerate(classes):
            cell = f'<td style="--share: {counts[true, taken] / max(counts[true].sum(), 1):.2f}">'
            if counts[true, taken]:
                text = f"{name} predicted as {other}: {counts[true, taken]}"
                photos = np.flatnonzero((truth == true) & (predicted == taken))[:MOST_PHOTOS]
                pictures = "".join(picture_html(images[photo], THUMBNAIL, name) for photo in photos)
                cell += f'<button type="button" aria-label="{escape(text)}">{counts[true, taken]}</button>'
                cell += f"<template>{pictures}</template>"
            cells.append(f"{cell}</td>")
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    caption = f"Test photos by true species (rows) and the prediction of {label} (columns); colour: share of the row"
    table = f"<caption>{escape(caption)}</caption><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<table class="confusion">{table}</table>'


def mistakes_html(answers, label, images, classes, count):
    """Show the most confident mistakes of a model as photos; name its most frequent mistake and the lowest F1 scores.

    Parameters
    ----------
    answers, label, images, classes : see `confusion_html`
    count : int
        The largest number of mistakes to show.

    Returns
    -------
    str
    """
    truth, predicted, confidence = answers.truth, answers.predicted[label], answers.probabilities[label].max(axis=1)
    mistakes = np.flatnonzero(predicted != truth)
    surest = mistakes[confidence[mistakes].argsort()[::-1]][:count]
    told = f"{label} misclassifies {len(mistakes) or 'none'} of {len(truth)} test images."
    if not len(mistakes):
        return f"<p>{escape(told)}</p>"
    pairs = Counter(zip(truth[mistakes], predicted[mistakes], strict=True))
    (true, taken), often = pairs.most_common(1)[0]
    if often > 1:
        alone = [count for _, count in pairs.most_common(2)].count(often) == 1
        told += f" {'Its' if alone else 'One of its'} most frequent mistake{'' if alone else 's'}: "
        told += f"{classes[true]} predicted as {classes[taken]} ({often} images)."
    by_class = f1_per_class(answers, [label], classes)[label][np.bincount(truth, minlength=len(classes)) > 0]
    low = by_class[by_class < 1].nsmallest(3, keep="all")  # more than three if several have the same F1
    texts = [(*name.removesuffix(")").rpartition(" (")[::2], f1) for name, f1 in low[:6].items()]  # "Oak (12)"
    counts = [count if row else count_text(int(count), "test image") for row, (_, count, _) in enumerate(texts)]
    lowest = ", ".join(f"{name} {f1:.2f} ({count})" for (name, _, f1), count in zip(texts, counts, strict=True))
    lowest += f" and {len(low) - 6} more" if len(low) > 6 else ""
    told += f" Lowest F1: {lowest}."
    told += f" The {count} most confident mistakes:" if len(mistakes) > count else ""
    shown = []
    for row in surest:
        true, taken = classes[truth[row]], classes[predicted[row]]
        picture = picture_html(images[row], LARGE, f"A {true} leaf that was predicted as {taken}")
        text = f"<strong>{escape(true)}</strong>, predicted as {escape(taken)} (probability {confidence[row]:.2f})"
        shown.append(f"<figure>{picture}<figcaption>{text}</figcaption></figure>")
    return f'<p>{escape(told)}</p><div class="photos">{"".join(shown)}</div>'


def photo_html(photo, name, species, probabilities, familiar, model):
    """Show a photo and the five classes that a model finds most likely.

    Parameters
    ----------
    photo : Pillow image
    name : str
        The file's name.
    species : str
        The model's prediction.
    probabilities : Series of float, one per class
    familiar : bool
        False if the photo may show an unknown species, see the module `familiarity`.
    model : str
        The model's label.

    Returns
    -------
    str
    """
    likely = probabilities.iloc[probabilities.to_numpy().argsort()[::-1][:5]]
    told = ", ".join(f"{escape(label)} {value:.2f}" for label, value in likely.items())
    picture = picture_html(np.asarray(photo), LARGE, f"The photo {name}")
    text = f"<strong>{escape(species)}</strong>{'' if familiar else ', but the photo is unfamiliar'}"
    text += f" ({escape(name)}). Probabilities of {escape(model)}: {told}."
    return f'<div class="photos"><figure>{picture}<figcaption>{text}</figcaption></figure></div>'
