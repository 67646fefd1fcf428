"""Define the paths of the project's folders, which do not depend on where a notebook or a command is started."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS, DATA, RUNS, REPORT, RESULTS = (ROOT / name for name in ("notebooks", "data", "runs", "report", "results"))
SPLIT_CSV, SOURCE_JSON, CACHE = DATA / "split.csv", DATA / "source.json", DATA / "cache"
