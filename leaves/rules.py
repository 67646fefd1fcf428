"""The rules of the verdicts in words: notebooks show them, and a test checks that docs/verdicts.md repeats them."""

from leaves.claims import LEAST_REPEATS, MARGIN

RULES = {
    "repeats": (
        "A network and its variant are trained in pairs. Both trainings of a pair have the same seed and the same "
        "held-out fold. Both change from pair to pair, so the differences vary with the initial weights, the order of "
        "the photos and the held-out photos (Bouthillier et al. 2021)."
    ),
    "converged": (
        "Only **converged** trainings are evidence. A training is *still rising* if it took all epochs that it was "
        "allowed, and its best epoch lies in their last tenth. It *did not train* if its macro F1 is always less than "
        "0.02 above that of always predicting the commonest class. It *diverged* if its loss was no longer a number."
    ),
    "interval": (
        "The 95 % interval of a mean difference is that of the corrected resampled t-test (Nadeau and Bengio 2003). "
        "It allows for training sets that overlap, and includes the chance in the choice of repeats and photos. The "
        "variances of all variants are moderated towards a common one (Smyth 2004)."
    ),
    "decided": (
        f"A claim needs {LEAST_REPEATS} pairs or more. A score is *higher* or *lower* if a two-sided test excludes "
        f"zero and the mean difference is not smaller than the margin of {MARGIN} (a dual criterion, Roychoudhury et "
        "al. 2018). It is the *same* if two one-sided tests put the difference inside the margin. Each of the three "
        "tests is corrected for all claims of the run (Holm 1979), but the intervals are not, so a claim can be "
        "undecided although its interval excludes zero. A score can also be shown to be *not higher*: if it is "
        "higher at all, then by less than the margin. *Not lower* is the reverse. A claim about an order of networks "
        "has no margin."
    ),
    "verdict": (
        "A claim is **confirmed** if the evidence shows that it is true, and **refuted** if it shows that it is false. "
        "Otherwise it is **undecided**, with the reason. It is **not tested** if this run did not train its variant."
    ),
    "tie": (
        "A model **ties** with the best model if the 95 % interval of their difference, over the test images, lies "
        f"inside the margin of {MARGIN}. If the interval contains zero but reaches beyond the margin, the comparison "
        "is **undecided**."
    ),
}
