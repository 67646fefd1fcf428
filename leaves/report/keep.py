"""Keep the last report until a new report exists, or move it away if the photos have changed; never mix the two."""

import datetime
import json
import shutil

from leaves import places
from leaves.files import content_hash, file_hash, link_or_copy
from leaves.report.chapters import CHAPTERS, read_by

FAILED = "failed_"  # begins the file name of a failed execution; the file of the last good execution stays beside it
# The files that a chapter writes in report/, in addition to its executed notebook and its figures.
LEFT_BY = {
    "03": ["variants.csv"],
    "06": ["scores.csv", "ranking.csv", "verdicts.csv", "predictions.csv", "best_model.keras"],
}
REPORT_FILES = ("0?_*.ipynb", "report.html", *LEFT_BY["03"], *LEFT_BY["06"], "figures/*.*")


def left_by(number):
    """Hash the files that a chapter has written in report/, including its figures: dict of file name to hash."""
    files = [places.REPORT / name for name in LEFT_BY.get(number, ())]
    files += sorted(places.REPORT.glob(f"figures/{number}-*"))
    return {str(file.relative_to(places.REPORT)): file_hash(file) for file in files if file.exists()}


def seal(executed):
    """Hash an executed chapter, a dict as nbformat writes it, without the metadata entry that holds this hash."""
    metadata = {key: value for key, value in executed["metadata"].items() if key != "sha256"}
    return content_hash({**executed, "metadata": metadata})


def read_executed(file):
    """Read an executed chapter: dict; empty if the file is missing, is damaged or has changed since its execution."""
    try:
        chapter = json.loads(file.read_text(encoding="utf-8"))
        is_sound = chapter["metadata"].get("sha256") in (None, seal(chapter))  # None: an earlier version executed it
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return chapter if is_sound else {}


def last_report():
    """Return the folder that keeps the last finished report while a command executes chapters."""
    return places.REPORT / ".last"


def keep_last_report():
    """Make hard links in report/.last to the finished report in report/, before chapters are executed.

    A file in report/ is always replaced and never overwritten, so the links keep the old content.

    If report/.last exists already, an interrupted command has left it, and it holds the last finished report. Then the
    splits that chapter 6 has read in report/ and in report/.last are compared. If they are the same, report/ may mix
    old and new chapters: report/.last stays, and no links are made. If they differ, chapter 6 in report/ is newer than
    the links: report/.last is moved to report/earlier, and new links are made.
    """
    if not (places.REPORT / "scores.csv").exists() or not split_of(places.REPORT):
        return
    last = last_report()
    if last.exists():
        if split_of(last) == split_of(places.REPORT):
            return
        set_aside("it shows another split of the photos")
    unfinished = last.with_name(".last.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for file in (file for pattern in REPORT_FILES for file in places.REPORT.glob(pattern)):
        link_or_copy(file, unfinished / file.relative_to(places.REPORT))
    unfinished.rename(last)


def split_of(report):
    """Return the hash of the split that chapter 6 of a report has read; "" if this chapter is missing or damaged."""
    executed = read_executed(report / CHAPTERS[-1].name)
    return executed["metadata"].get("read", {}).get("01", "") if executed else ""


def settle_last_report(stale):
    """Delete the report in report/.last after chapters were executed, or move it to report/earlier.

    The report is moved if `forget_stale` found a stale chapter, or if the report's split is not the current split.
    Otherwise there are two steps: (1) if the latest execution of a chapter in `LEFT_BY` failed, the files and figures
    of its last good execution are moved back from report/.last to report/; (2) report/.last is deleted.

    Parameters
    ----------
    stale : list of str, the numbers from `forget_stale`
    """
    last = last_report()
    if not last.exists():
        return
    if stale:
        set_aside(f"some of its chapters are damaged, or have read files that have changed since: {', '.join(stale)}")
    elif not places.SPLIT_CSV.exists() or split_of(last) != file_hash(places.SPLIT_CSV):
        set_aside("it shows another split of the photos")
    else:
        failed = [number for number in LEFT_BY if [*places.REPORT.glob(f"{FAILED}{number}_*.ipynb")]]
        for number in failed:
            pictures = [f"figures/{file.name}" for file in last.glob(f"figures/{number}-*")]
            for name in (*LEFT_BY[number], *pictures):
                if (last / name).exists():
                    (last / name).replace(places.REPORT / name)
        shutil.rmtree(last)


def set_aside(reason):
    """Move the last finished report to report/earlier; print its new place and the reason.

    The name of the new folder is the time at which the report's scores.csv was last modified.
    """
    last = last_report()
    made = datetime.datetime.fromtimestamp((last / "scores.csv").stat().st_mtime)
    place = places.REPORT / "earlier" / made.strftime("%Y-%m-%d-%H%M%S")
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    last.rename(place)
    print(f"The last report is kept in {place.relative_to(places.ROOT)}, because {reason}.")


def forget_stale():
    """Delete each executed chapter that is damaged, or that has read a file that has changed since.

    So the page cannot show chapters that are based on different versions of a file. The other files of a deleted
    chapter (see `LEFT_BY`) are deleted, too.

    Returns
    -------
    list of str, the numbers of the deleted chapters; a deleted file of a failed execution does not count
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
    """List, for each chapter, the executed notebook that the page shows.

    Returns
    -------
    list of (Path of the executed notebook, str or None)
        If the latest execution of a chapter failed, the str says in one sentence why it stopped. In this case the
        Path is that of the last good execution or, if there is none, that of the failed execution.
    """
    shown = []
    for chapter in CHAPTERS:
        good, failed = places.REPORT / chapter.name, places.REPORT / f"{FAILED}{chapter.name}"
        stopped = read_executed(failed)["metadata"]["stopped"] if failed.exists() else None
        if good.exists() or failed.exists():
            shown.append((good if good.exists() else failed, stopped))
    return shown
