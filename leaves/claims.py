"""Where a verdict on a claim of the study is reached: the rules, in words and in code."""

from leaves.scoring import paired_difference

MARGIN = 0.05  # macro F1: a difference that is surely smaller counts as none
VANISHING = 0.01  # of a convolution's gradient, compared with a dense layer's
FAR_FEWER = 10  # times
SMALL_LOSS = 0.1  # macro F1; a little more than the original's own 0.085

# The rules of verdicts, in words. Notebooks show them, docs/verdicts.md repeats them, and a test compares.
RULES = {
    "noise floor": (
        "The **noise floor** is the largest difference between trainings of one model that differ in the seed alone."
    ),
    "clear": (
        "A difference is clear if its 95 % interval over seeds and images excludes zero and if it exceeds the noise "
        "floor."
    ),
    "higher": (
        "A claim that a score is *higher* or *lower* is **confirmed** by a clear difference in this direction. It is "
        "**refuted** by a clear difference in the other direction, and by an interval that leaves room only for a "
        "difference below the margin."
    ),
    "same": (
        f"A claim of *same* or *not higher* is **confirmed** if the interval stays within the margin (here {MARGIN}), "
        "which takes two seeds or more. It is **refuted** by a clear difference against it."
    ),
    "undecided": "Anything else is **undecided**.",
    "tie": (
        "A model **ties** with the best model if the 95 % interval of their difference, over the test images, contains "
        "zero."
    ),
    "vanishing": (
        "A gradient **vanishes** if the weakest gradient of a convolution, relative to its kernel, is less than "
        f"{VANISHING} times the strongest of a dense layer, in the worst epoch."
    ),
    "parameters": (
        f"FinalModel has *far fewer* parameters if it has at most 1/{FAR_FEWER} of the other model's, and a *small* "
        f"loss if it loses less than {SMALL_LOSS} macro F1."
    ),
}


def established(difference, low, high, seeds, floor, margin):
    """What a measured difference shows, as dict of statement to bool.

    Parameters
    ----------
    difference, low, high : float
        A difference and its 95 % interval.
    seeds : int
        Trainings of each side. The interval of a single pair cannot show what another seed would give.
    floor : float
        The noise floor, which a difference has to exceed: a bootstrap over two or three seeds is too narrow.
    margin : float
        A difference that is surely smaller counts as none (an equivalence test).
    """
    clear = (low > 0 or high < 0) and abs(difference) > floor
    higher, lower = clear and difference > 0, clear and difference < 0
    at_most, at_least = seeds > 1 and high < margin, seeds > 1 and low > -margin
    return {
        "higher": higher,
        "lower": lower,
        "not higher": lower or at_most,
        "not lower": higher or at_least,
        "same": at_most and at_least,
    }


def verdict(claim, holds):
    """Whether a claim, one of the statements of `established`, is "confirmed", "refuted" or "undecided"."""
    against = {"higher": ["not higher"], "lower": ["not lower"], "same": ["higher", "lower"]}
    against |= {"not higher": ["higher"], "not lower": ["lower"]}
    if holds[claim]:
        return "confirmed"
    return "refuted" if any(holds[statement] for statement in against[claim]) else "undecided"


def compare(truth, predictions, baselines, claim, floor, margin=MARGIN):
    """Macro F1 of one model less that of another, each trained with several seeds, and the verdict on a claim.

    Parameters
    ----------
    truth : array of int, shape (n,)
    predictions, baselines : array of int, shape (seeds, n)
        With unequal numbers of seeds, the first ones of each are paired.
    claim : one of the statements of `established`
    floor, margin : float, see `established`

    Returns
    -------
    dict of difference, low, high, seeds, verdict
    """
    seeds = min(len(predictions), len(baselines))
    difference, low, high = paired_difference(truth, predictions[:seeds], baselines[:seeds])
    holds = established(difference, low, high, seeds, floor, margin)
    return {"difference": difference, "low": low, "high": high, "seeds": seeds, "verdict": verdict(claim, holds)}


def joint_verdict(verdicts):
    """The verdict on a claim that says several things at once: confirmed only if each of them is."""
    if "refuted" in verdicts:
        return "refuted"
    if all(verdict.startswith("not tested") for verdict in verdicts):
        return "not tested"
    return "confirmed" if set(verdicts) == {"confirmed"} else "undecided"


def judge_parameters(truth, predicted, params, large, draws=2000):
    """Judge whether FinalModel has far fewer parameters for a small loss (C17), by the rule "parameters".

    Parameters
    ----------
    truth : array of int, shape (n,)
    predicted : dict of label to array of int, shape (n,)
    params : Series of label to number of parameters
    large : str or None
        Label of the pretrained network that FinalModel is compared with; None if there is none.

    Returns
    -------
    dict of evidence and verdict
    """
    if not large:
        return {"evidence": "none of the study's networks had ImageNet weights", "verdict": "undecided"}
    loss, low, high = paired_difference(truth, predicted[large], predicted["FinalModel"], draws)
    times = params[large] / params["FinalModel"]
    small = "confirmed" if high < SMALL_LOSS else "refuted" if low > SMALL_LOSS else "undecided"
    evidence = f"{times:.1f} times fewer than {large}, loss {loss:+.3f} ({low:+.3f} to {high:+.3f}) on test"
    return {"evidence": evidence, "verdict": small if times >= FAR_FEWER else "refuted"}
