"""Figures of chapter 6: how good the models are, where they fail and whether their confidence can be trusted."""

from leaves import places, scoring
from leaves.evaluation import validation_score
from leaves.plots import MODEL_COLOURS, MODEL_MARKERS
from leaves.published import published_study, tally
from leaves.robustness import CORRUPTIONS

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix

BELOW = {"loc": "outside lower center", "fontsize": "small"}  # of all Axes, for a legend


def look(label):
    """Colour and marker of a model, by its label: those of its name, whatever the step of its training."""
    name = label.partition(", ")[0]
    return {"color": MODEL_COLOURS[name], "marker": MODEL_MARKERS[name]}


def single_mark(label, **options):
    """Keywords that draw one model as a mark without a line, half-filled if its head alone was trained."""
    fill = "left" if "transfer" in label else "full"
    return look(label) | {"label": label, "fillstyle": fill, "linestyle": "none"} | options


# ---------------------------------------------------------------- scores


def style_scores(scores, against, models, repeats, best, external=None):
    """The table of scores by test macro F1, the best model in bold.

    Parameters
    ----------
    scores : DataFrame from `evaluation.score_table`, the rows that are shown
    against : DataFrame from `evaluation.compare_with`
    models : dict of label to Run
    repeats : dict of label to list of Run
    best : str
        Label of the single model that validation chose.
    external : Answers to the second test set, if its photos have labels

    Returns
    -------
    pandas Styler
    """
    interval = scores[["test_macro_f1_low", "test_macro_f1_high"]].map("{:.3f}".format).agg(" to ".join, axis=1)
    megabytes = {label: (run.folder / "model.keras").stat().st_size / 1e6 for label, run in models.items()}
    means = {label: np.mean([*map(validation_score, runs)]) for label, runs in repeats.items() if len(runs) > 1}
    texts = {label: f"{mean:.3f} ({len(repeats[label])} repeats)" for label, mean in means.items()}
    shown = {
        "test macro F1": scores["test_macro_f1"],
        "95 % interval": interval,
        "against the best": against["verdict"],
        "initial weights": scores["initial_weights"],
        "test accuracy": scores["test_accuracy"],
        "validation macro F1": scores["validation_macro_f1"],
        "mean of the repeats": pd.Series(texts, dtype=object).reindex(scores.index),
        "original score": scores["original_score"],
        "parameters": scores["params"],
        "MB": pd.Series(megabytes).reindex(scores.index),
        "training s": scores["train_seconds"],
        "ms per image": scores["ms_per_image"],
    }
    shown = pd.DataFrame(shown).sort_values("test macro F1", ascending=False).dropna(axis=1, how="all")
    if external:
        column = f"second test set, macro F1 ({len(np.unique(external.truth))} classes)"
        shown.insert(4, column, scores["external_macro_f1"].astype(float))
    formats = {"parameters": "{:,}", "training s": "{:,.0f}", "ms per image": "{:.1f}", "MB": "{:.0f}"}
    formats |= dict.fromkeys([name for name in shown if "F1" in name or "accuracy" in name], "{:.3f}")
    style = shown.style.format(formats | {"original score": "{:.4f}"}, na_rep="")
    style = style.bar(subset=["test macro F1"], vmin=0, vmax=1, color="var(--bar, #9ecae1)")
    return style.apply(lambda row: ["font-weight: bold" if row.name == best else ""] * len(row), axis=1)


def draw_scores(scores, against, best):
    """Draw the test macro F1 of every model with its interval, and the original study's score.

    Parameters
    ----------
    scores, against, best : see `style_scores`

    Returns
    -------
    figure, caption, table
    """
    ordered = scores.sort_values("test_macro_f1")
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(ordered) + 1.3))
    for label, row in ordered.iterrows():
        axis.barh(label, row["test_macro_f1"], color=look(label)["color"])
        axis.hlines(label, row["test_macro_f1_low"], row["test_macro_f1_high"], color="0.15")
    axis.plot(ordered["original_score"].astype(float), ordered.index, "k*", label="original study, on its own test set")
    axis.set(xlim=(0, 1), xlabel="macro F1 on test, with 95 % intervals")
    axis.legend(loc="lower right", fontsize="small")
    counts = [(against["verdict"] == verdict).sum() for verdict in ("worse", "better")]
    axis.set_title(f"{best}: on test better than {counts[0]} models, beaten by {counts[1]}")
    caption = "Test macro F1 of every model with 95 % bootstrap intervals; stars: the original study's scores."
    drawn = ordered[["test_macro_f1_low", "test_macro_f1", "test_macro_f1_high", "original_score"]]
    return figure, caption, drawn.astype(float)


# Marker and colour of a difference on test, see `evaluation.compare_with`.
VERDICTS = {"worse": ("o", "C3"), "tie": ("D", "0.4"), "undecided": ("d", "0.65"), "better": ("s", "C2")}


def draw_differences(against, best):
    """Draw the macro F1 of every model minus that of the best one, with its interval.

    Returns
    -------
    figure, caption, table
    """
    rest = against.drop(index=best).sort_values("difference").assign(row=range(len(against) - 1))
    figure, axis = plt.subplots(figsize=(9, 0.36 * len(rest) + 1.3))
    for verdict, (marker, colour) in VERDICTS.items():
        if (of_verdict := rest[rest["verdict"] == verdict]).empty:
            continue
        axis.hlines(of_verdict["row"], of_verdict["low"], of_verdict["high"], color=colour)
        label = f"{verdict} ({len(of_verdict)})"
        axis.plot(of_verdict["difference"], of_verdict["row"], marker, color=colour, label=label)
    axis.axvline(0, color="0.2", linewidth=1)
    axis.set_yticks(rest["row"], rest.index)
    axis.set(xlabel="difference in test macro F1, with 95 % intervals", title=f"Every model minus {best}")
    axis.legend(fontsize="small")
    caption = f"Difference in test macro F1 of every model to {best}, on the same images, with its 95 % interval."
    return figure, caption, rest[["low", "difference", "high"]]


def draw_training_curves(models):
    """Draw the macro F1 of trainings over the epochs, one panel for each step of the report.

    Parameters
    ----------
    models : dict of label to Run

    Returns
    -------
    figure, caption
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9), sharey=True)
    panels = {"04": axes[1], "05": axes[2]}
    for run in models.values():
        axis = panels[run.spec["chapter"]] if "backbone" in run.spec else axes[0]
        history, of_model = run.history, look(run.name) | {"label": run.name}
        axis.plot(history["epoch"], history["macro_f1"], "--", color=of_model["color"], alpha=0.6)
        of_model |= {"markevery": max(1, len(history) // 6)}
        if not run.spec.get("refit"):
            axis.plot(history["epoch"], history["val_macro_f1"], **of_model)
    for axis, title in zip(axes, ("custom CNN", "transfer learning", "fine tuning"), strict=True):
        axis.set(title=title, xlabel="epoch", ylim=(0, 1))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("macro F1 (dashed: training)")
    handles = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc=BELOW["loc"], ncols=4)
    return figure, (
        "Macro F1 on training and validation over epochs: custom CNN (a refit has a dashed line only), transfer "
        "learning, fine tuning."
    )


# ---------------------------------------------------------------- mistakes


def draw_per_class(per_class, best):
    """Draw the F1 of each class for some models.

    Parameters
    ----------
    per_class : DataFrame from `evaluation.f1_per_class`, the hardest class for the best model first

    Returns
    -------
    figure, caption
    """
    figure, axis = plt.subplots(figsize=(8, 0.34 * len(per_class) + 1.6))
    for label in per_class:
        axis.plot(per_class[label], per_class.index, **single_mark(label, markersize=8))
    hardest = per_class.index[0].split(" (")[0]
    axis.set(xlim=(-0.02, 1.02), xlabel="F1 on test", title=f"{hardest} is the hardest for {best}")
    figure.legend(**BELOW, ncols=3)
    return figure, (
        "F1 of each species on the test subset for FinalModel and the best pretrained models; half-filled: the "
        "head alone; in brackets its test images."
    )


def draw_confusion(answers, label, classes):
    """Draw the confusion matrix of a model: counts, coloured by their share of the true class.

    Parameters
    ----------
    answers : Answers
    classes : list of str

    Returns
    -------
    figure, caption, table
    """
    counts = confusion_matrix(answers.truth, answers.predicted[label], labels=range(len(classes)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axis = plt.subplots(figsize=(8.6, 7.2))
    names = {"xticklabels": classes, "yticklabels": classes, "cbar_kws": {"label": "share of the true species"}}
    sns.heatmap(shares, vmin=0, vmax=1, cmap="Blues", annot=counts, fmt="d", ax=axis, **names)
    axis.tick_params(axis="x", rotation=60)
    wrong = counts - np.diag(np.diag(counts))
    true, taken = np.unravel_index(wrong.argmax(), wrong.shape)
    most = f"{classes[true]} is taken for {classes[taken]} ({wrong.max()} of {counts[true].sum()})"
    title = f"{label}: most often {most}" if wrong.any() else f"{label} makes no mistake"
    axis.set(xlabel="predicted", ylabel="true", title=title)
    caption = f"Confusion matrix of {label} on the test images: counts, coloured by the share of the true species."
    return figure, caption, pd.DataFrame(shares, classes, classes)


def draw_confused_pairs(answers, label, images, classes):
    """Draw the pairs of classes that a model confuses most often: a mistaken photo, and one of the other class.

    Parameters
    ----------
    answers : Answers, with a mistake of the model
    images : array or StoredImages, uint8, shape (n, size, size, 3)
    classes : list of str

    Returns
    -------
    figure, caption
    """
    truth, predicted = answers.truth, answers.predicted[label]
    wrong = confusion_matrix(truth, predicted, labels=range(len(classes)))
    np.fill_diagonal(wrong, 0)
    most = wrong.ravel().argsort()[::-1][:4]
    pairs = np.transpose(np.unravel_index(most[wrong.ravel()[most] > 0], wrong.shape))
    figure, axes = plt.subplots(1, 2 * len(pairs), figsize=(2.53 * len(pairs), 2.1))
    for left, right, (true, taken) in zip(axes[::2], axes[1::2], pairs, strict=True):
        mistaken = np.flatnonzero((truth == true) & (predicted == taken))[0]
        left.imshow(images[mistaken])
        left.set_title(f"{classes[true]}, taken for", fontsize="x-small")
        right.imshow(images[np.flatnonzero(truth == taken)[0]])
        right.set_title(f"{classes[taken]} ({wrong[true, taken]} ×)", fontsize="x-small")
    for axis in axes.flat:
        axis.axis("off")
    return figure, f"The pairs of species that {label} confuses most often, one photo of each."


def draw_mistakes(answers, label, images, classes):
    """Draw the twelve mistakes of which a model was surest.

    Parameters
    ----------
    answers, label, images, classes : see `draw_confused_pairs`

    Returns
    -------
    figure, caption
    """
    truth, predicted, confidence = answers.truth, answers.predicted[label], answers.probabilities[label].max(axis=1)
    mistakes = np.flatnonzero(predicted != truth)
    surest = mistakes[confidence[mistakes].argsort()[::-1]][:12]
    figure, axes = plt.subplots(2, 6, figsize=(10, 4))
    for axis in axes.flat:
        axis.axis("off")
    for axis, row in zip(axes.flat, surest, strict=False):
        axis.imshow(images[row])
        title = f"{classes[truth[row]]}, taken for\n{classes[predicted[row]]} ({confidence[row]:.2f})"
        axis.set_title(title, fontsize="x-small")
    figure.suptitle(f"{label}: {len(mistakes)} of {len(truth)} test images mistaken")
    return figure, f"The mistakes of {label} with the highest confidence, which stands in brackets."


# ---------------------------------------------------------------- confidence and worse photos


def draw_calibration(answers, label, temperature):
    """Draw the share of right answers against the confidence, as trained and with a temperature.

    Parameters
    ----------
    answers : Answers
    temperature : float

    Returns
    -------
    figure, caption
    """
    trained, right = answers.probabilities[label], answers.predicted[label] == answers.truth
    both = {"as trained": trained, f"temperature {temperature:.2f}": scoring.tempered(trained, temperature)}
    figure, (axis, below) = plt.subplots(2, 1, figsize=(5.6, 5.6), sharex=True, height_ratios=[3, 1])
    axis.plot([0, 1], [0, 1], color="0.4", linewidth=1)
    for (name, answer), marker in zip(both.items(), "os", strict=True):
        share, mean = calibration_curve(right, answer.max(axis=1), n_bins=8, strategy="quantile")
        error = scoring.calibration_error(answers.truth, answer)
        axis.plot(mean, share, marker=marker, label=f"{name}: error {error:.3f}")
        below.hist(answer.max(axis=1), bins=np.linspace(0, 1, 21), histtype="step")
    axis.set(ylabel="share that is right", title=f"Calibration of {label} on test")
    axis.legend(fontsize="small")
    below.set(xlabel="confidence", ylabel="images")
    return figure, (
        f"Share of right answers of {label} against its confidence, before and after the temperature; below, how often."
    )


def draw_robustness(robust, count):
    """Draw the macro F1 of models on corrupted photos against the strength, one panel for each corruption.

    Parameters
    ----------
    robust : DataFrame from `robustness.stored_robustness`
    count : int
        How many photos were corrupted.

    Returns
    -------
    figure, caption
    """
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.4), sharex=True, sharey=True)
    for axis, kind in zip(axes.flat, CORRUPTIONS, strict=True):
        of_kind = robust[robust["corruption"].isin(["none", kind])]
        for label, rows in of_kind.groupby("model", sort=False):
            line = "-" if "fine" in label else "--"
            axis.plot(rows["strength"], rows["macro F1"], line, label=label, **look(label))
            axis.fill_between(rows["strength"], rows["low"], rows["high"], color=look(label)["color"], alpha=0.12)
        axis.set(title=kind, ylim=(0, 1))
    for axis in axes[1]:
        axis.set_xlabel("strength")
    figure.supylabel(f"macro F1 on {count} test images")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), **BELOW, ncols=3)
    return figure, (
        f"Macro F1 on {count} test images that were made worse in six ways, against the strength, with 95 % "
        "bootstrap intervals; 0: as they are."
    )


# ---------------------------------------------------------------- a photo of the reader's


def draw_photo(picture, name, species, probabilities, familiar, model):
    """Draw a photo, and the five classes that a model finds most likely.

    Parameters
    ----------
    picture : Pillow image
    name : str
        Of the file.
    species : str
        What the model answers.
    probabilities : Series of float, one per class
    familiar : bool
        Whether the photo is like those that the model knows.
    model : str
        The model's label.

    Returns
    -------
    figure, caption, table
    """
    likely = probabilities.iloc[probabilities.to_numpy().argsort()[-5:]]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), width_ratios=[1, 2])
    axes[0].imshow(picture)
    axes[0].axis("off")
    axes[1].barh(likely.index, likely)
    axes[1].set(xlim=(0, 1), xlabel="probability", title=f"{name}: {species}{'' if familiar else ', but unfamiliar'}")
    return figure, f"One photo and the five species that {model} finds most likely.", likely


def style_claims(verdicts):
    """The verdicts on all claims as a styled table, each with a link to its figure and the published study's verdict.

    Parameters
    ----------
    verdicts : DataFrame, see `claims.judge`
    """
    named = {"said": "the original study says", "evidence": "this run's evidence"}
    table = verdicts.set_index("claim").rename_axis(None).rename(columns=named)
    drawn = {file.stem for file in (places.REPORT / "figures").glob("*.png")}
    figures = table.pop("figure").where(table["verdict"] != "not tested", "")
    link = '<a href="#figure-{0}" title="{0}">figure</a>'
    table["chart"] = [link.format(name) if name in drawn else "" for name in figures]
    if study := published_study():
        table.insert(2, "published study", study.verdicts.set_index("claim")["verdict"])
    caption = f"{len(table)} claims of the original study: {tally(table)}"
    return table.style.set_table_attributes('class="text"').set_caption(caption)
