"""The last report: kept until the new one exists, set aside if its photos were others, never mixed with the new one."""

import datetime
import json
import shutil

from leaves import places
from leaves.files import content_hash, file_hash, link_or_copy
from leaves.report.chapters import CHAPTERS, read_by

FAILED = "failed_"  # begins the name of a chapter that did not reach its end, beside its last good execution
# What a chapter leaves beside its page and its figures.
LEFT_BY = {
    "03": ["variants.csv"],
    "06": ["scores.csv", "ranking.csv", "verdicts.csv", "predictions.csv", "best_model.keras"],
}
REPORT_FILES = ("0?_*.ipynb", "report.html", *LEFT_BY["03"], *LEFT_BY["06"], "figures/*.*")


def left_by(number):
    """What a chapter has left beside its page: dict of a file's name in report/ to its hash."""
    files = [places.REPORT / name for name in LEFT_BY.get(number, ())]
    files += sorted(places.REPORT.glob(f"figures/{number}-*"))
    return {str(file.relative_to(places.REPORT)): file_hash(file) for file in files if file.exists()}


def seal(executed):
    """The hash of an executed chapter (dict as nbformat writes it), but for the entry of its metadata that holds it."""
    metadata = {key: value for key, value in executed["metadata"].items() if key != "sha256"}
    return content_hash({**executed, "metadata": metadata})


def read_executed(file):
    """An executed chapter as a dict; an empty one if it is missing, or is not as it was executed."""
    try:
        chapter = json.loads(file.read_text(encoding="utf-8"))
        is_sound = chapter["metadata"].get("sha256") in (None, seal(chapter))  # None: an earlier version executed it
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return chapter if is_sound else {}


def last_report():
    """The folder that keeps the finished report which lay there before this command."""
    return places.REPORT / ".last"


def keep_last_report():
    """Keep the finished report that lies in report/ beside it, by hard links, as long as chapters are executed.

    All its files are replaced and never written into, so that the links keep the old ones. What an interrupted command
    has kept of the same photos stays; what it has kept of other photos is set aside.
    """
    if not (places.REPORT / "scores.csv").exists() or not split_of(places.REPORT):
        return
    last = last_report()
    if last.exists():
        if split_of(last) == split_of(places.REPORT):
            return
        set_aside("its photos were others")
    unfinished = last.with_name(".last.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for file in (file for pattern in REPORT_FILES for file in places.REPORT.glob(pattern)):
        link_or_copy(file, unfinished / file.relative_to(places.REPORT))
    unfinished.rename(last)


def split_of(report):
    """The hash of the split that the last chapter of a report was executed for; nothing without that chapter."""
    executed = read_executed(report / CHAPTERS[-1].name)
    return executed["metadata"].get("read", {}).get("01", "") if executed else ""


def settle_last_report(stale):
    """Set the last finished report aside if chapters of it are gone or its photos were others; else drop its links.

    If a chapter was not finished, the files that belong to its last good execution come back.
    """
    last = last_report()
    if not last.exists():
        return
    if stale:
        set_aside(f"chapters {', '.join(stale)} of it are damaged or read something that has changed")
    elif not places.SPLIT_CSV.exists() or split_of(last) != file_hash(places.SPLIT_CSV):
        set_aside("its photos were others")
    else:
        failed = [number for number in LEFT_BY if [*places.REPORT.glob(f"{FAILED}{number}_*.ipynb")]]
        for number in failed:
            pictures = [f"figures/{file.name}" for file in last.glob(f"figures/{number}-*")]
            for name in (*LEFT_BY[number], *pictures):
                if (last / name).exists():
                    (last / name).replace(places.REPORT / name)
        shutil.rmtree(last)


def set_aside(reason):
    """Move the last finished report to report/earlier, under the time at which it was made, and say why."""
    last = last_report()
    made = datetime.datetime.fromtimestamp((last / "scores.csv").stat().st_mtime)
    place = places.REPORT / "earlier" / made.strftime("%Y-%m-%d-%H%M%S")
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    last.rename(place)
    print(f"The last report is kept in {place.relative_to(places.ROOT)}, because {reason}.")


def forget_stale():
    """Drop the executed chapters that read something else than what lies there now: the page never mixes two runs.

    Returns
    -------
    list of str, the numbers of these chapters
    """
    stale = set()
    for executed in (*places.REPORT.glob("0?_*.ipynb"), *places.REPORT.glob(f"{FAILED}0?_*.ipynb")):
        number = executed.name.removeprefix(FAILED)[:2]
        if not (chapter := read_executed(executed)):
            print(f"report/{executed.name} is damaged: ./run_all.sh --only {number} executes this chapter again.")
        if not chapter or chapter["metadata"].get("read") != read_by(number):
            executed.unlink()
            if not executed.name.startswith(FAILED):
                stale.add(number)
    for number in stale & LEFT_BY.keys():
        for name in LEFT_BY[number]:
            (places.REPORT / name).unlink(missing_ok=True)
    return sorted(stale)


def shown_chapters():
    """What the page shows of each chapter that was executed.

    Returns
    -------
    list of (Path of the executed notebook, sentence or None): of a chapter that failed the last good execution, if
    there is one, and why the later one stopped
    """
    shown = []
    for chapter in CHAPTERS:
        good, failed = places.REPORT / chapter.name, places.REPORT / f"{FAILED}{chapter.name}"
        stopped = read_executed(failed)["metadata"]["stopped"] if failed.exists() else None
        if good.exists() or failed.exists():
            shown.append((good if good.exists() else failed, stopped))
    return shown
