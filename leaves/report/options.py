"""Read the options of run_all.sh, and report a mistake in them in one sentence before anything is installed or run.

This module imports only the standard library, because it runs before the packages are installed.
"""

import argparse
import ast
import os
import re
import sys

from leaves import places
from leaves.files import read_json, user_path
from leaves.parameters import PARAMETERS, fault_of_value
from leaves.report.chapters import CHAPTERS, NUMBERS, parameter_readers

PROFILES = sorted(file.stem for file in (places.NOTEBOOKS / "profiles").glob("*.yaml"))
DATA_WORDS = ("sample", "plant_village")  # accepted in place of a folder of photos


class OneSentenceParser(argparse.ArgumentParser):
    """Argument parser that reports a mistake in the options in one sentence and exits with status 2."""

    def error(self, message):
        self.exit(2, f"run_all.sh: {message}; ./run_all.sh --help lists the options.\n")


def literal(text):
    """Evaluate a Python literal such as 3, 0.1, True or ['a', 'b']; return any other text as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def argument_parser():
    """Make the parser of the options of run_all.sh."""
    parser = OneSentenceParser(prog="run_all.sh", description="Executes the chapters and renders report/report.html.")
    parser.add_argument("--profile", choices=PROFILES, default="sample", help="how much to compute (default: sample)")
    parser.add_argument(
        "--data",
        metavar="DIR|plant_village|sample",
        help="a folder with one sub-folder of images per class; or plant_village, to download that data set; or "
        "sample, the synthetic leaves (default: the data of the last run or, in the first run, sample)",
    )
    parser.add_argument(
        "--test",
        metavar="DIR",
        help="a second folder of photos: with sub-folders named after the classes, every model is scored on it; "
        "without sub-folders, the photos in the folder itself are only classified",
    )
    parser.add_argument("--weights", metavar="DIR", help="a folder with <Backbone>.weights.h5 (default: data/weights)")
    parser.add_argument(
        "--only",
        metavar="03,04",
        help="execute only these chapters; the report shows the other chapters as last executed",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="count the trainings to run and the cached trainings, estimate the time, then stop",
    )
    parser.add_argument("--force", action="store_true", help="train the models of the chosen chapters again")
    parser.add_argument(
        "--scheduler", metavar="ADDRESS|local:N", help="train on a Dask scheduler, or in N processes on this computer"
    )
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter of the notebooks"
    )
    return parser


def read_options(arguments):
    """Parse and check the command line: Namespace of the options, with `chapters` and `parameters` added.

    `chapters` lists the notebooks to execute, and `parameters` is a dict of the notebooks' parameters that the
    command line sets. A mistake is reported in one sentence, and the command exits with status 2.
    """
    parser = argument_parser()
    options = parser.parse_args(arguments)
    if options.scheduler and not re.fullmatch(r"local:[1-9]\d*|(?!local:)([a-z]+://)?[^/\s]+:\d+", options.scheduler):
        parser.error(f"--scheduler {options.scheduler} is neither local:N nor an address like tcp://127.0.0.1:8786")
    numbers = [number.strip() for number in options.only.split(",")] if options.only else NUMBERS
    if unknown := [number for number in numbers if number not in NUMBERS]:
        parser.error(f"there is no chapter {unknown[0]!r}: the chapters are {', '.join(NUMBERS)}")
    options.chapters = [chapter for chapter in CHAPTERS if chapter.name[:2] in numbers]
    if numbers == ["01"] and (unread := "--force" if options.force else "--scheduler" if options.scheduler else ""):
        parser.error(f"chapter 1 trains nothing, so it cannot use {unread}: add other chapters to --only")

    readers = parameter_readers()
    given = [("--data", "data", options.data), ("--weights", "weights", options.weights)]
    given += [("--test", "external", options.test), *((f"-p {name}", name, value) for name, value in options.p)]
    options.parameters = {}
    for option, name, value in given:
        if value is None:
            continue
        if name not in readers:
            parser.error(f"no chapter has a parameter {name}: the parameters are {', '.join(sorted(readers))}")
        options.parameters[name] = read_value(parser, option, name, value)
        others = [int(number) for number in readers[name] if number not in numbers]
        if len(others) == len(readers[name]) and name != "data":
            parser.error(f"no chapter in --only reads {option}: add chapter {' or '.join(map('{:02}'.format, others))}")
    if "data" in options.parameters and "01" not in numbers:
        if (present := last_data()) != options.parameters["data"]:
            now = f"the present split is made from {present}" if present else "there is no split yet"
            parser.error(f"only chapter 1 reads --data {options.parameters['data']}, and {now}: add 01 to --only")
        del options.parameters["data"]
    return options


def read_value(parser, option, name, value):
    """Convert the text of a parameter on the command line to its value; exit if the value cannot be used.

    A relative path is resolved against the folder in which the command was started.
    """
    place = PARAMETERS[name].place
    found = literal(value) if not place or value == "None" else value
    if fault := fault_of_value(name, found):
        parser.error(fault)
    if not place or not found or (name == "data" and found in DATA_WORDS):
        return found
    path = user_path(found, os.getcwd())
    if place == "folder" and not os.path.isdir(path):  # also False without permission to read it
        parser.error(f"{option} {value} is not a folder that can be opened")
    if place == "file" and not os.path.isfile(path):
        parser.error(f"{option} {value} is not a file that can be opened")
    if name == "data" and path.resolve().is_relative_to(places.ROOT / "data" / "split"):
        parser.error(f"{option} {value} is written by chapter 1: give the folder with the original photos")
    return str(path.resolve())


def last_data():
    """Return the value of `--data` for the current split: a folder, "sample" or "plant_village"; None if unknown."""
    return read_json(places.SOURCE_JSON).get("data") if places.SPLIT_CSV.exists() else None


if __name__ == "__main__":
    read_options(sys.argv[1:])
