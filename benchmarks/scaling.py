"""Measure time and peak memory of each chapter against the number of images.

    .venv/bin/python benchmarks/scaling.py [--counts 1000 4000 16000] [--chapters 01 02 03 04 05 06] [-p NAME VALUE ...]

For each count, the chapters run one after another in a copy of the project, with the tiny profile and with this number
of synthetic leaves. The results are written to benchmarks/scaling.csv and scaling.png.
"""

import argparse
from pathlib import Path

from report import CHAPTERS, copy_of_project, run_chapter

import pandas as pd
import seaborn as sns

HERE = Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--chapters", nargs="+", choices=CHAPTERS, default=CHAPTERS, help="(default: all)")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args()
    rows = []
    for count in options.counts:
        with copy_of_project() as copy:
            for chapter in options.chapters:
                settings = [*options.p, ("sample_count", count)]
                more = [part for setting in settings for part in ("-p", *map(str, setting))]
                seconds, memory = run_chapter(copy, chapter, "--profile", "tiny", *more)
                rows.append({"chapter": chapter, "images": count, "seconds": seconds, "peak GB": memory})
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.round(2).to_csv(HERE / "scaling.csv", index=False)
    sns.set_theme("notebook", "whitegrid", "colorblind")
    long = table.melt(["chapter", "images"], var_name="measure")
    look = {"style": "chapter", "markers": True, "dashes": False, "facet_kws": {"sharey": False}}
    grid = sns.relplot(long, x="images", y="value", hue="chapter", col="measure", kind="line", height=3.6, **look)
    grid.set(xscale="log", xticks=options.counts, xticklabels=[f"{count:,}" for count in options.counts], ylabel="")
    for axis, title in zip(grid.axes.flat, ("seconds", "peak memory, GB"), strict=True):
        axis.set(title=title, ylim=(0, None))
    grid.figure.savefig(HERE / "scaling.png", dpi=110)
    wide = table.pivot_table(["seconds", "peak GB"], "chapter", "images")
    print(wide.round(2).to_string())


if __name__ == "__main__":
    main()
