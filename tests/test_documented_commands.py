"""Every command that the documents name is run, made small, or has a reason why it cannot be run here.

The commands are found in README.md, CONTRIBUTING.md, docs/, data/README.md, benchmarks/README.md and in the text of the
notebooks. What is run contains the documented words: a command that is changed in a document, or new there, fails a
test until it is changed or added here.
"""

import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from conftest import ROOT, clone
from leaves.parameters import PARAMETERS
from leaves.report import chapters, options

import keras
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from distributed import Client
from PIL import Image

# ---------------------------------------------------------------- what the documents say

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "data/README.md", "benchmarks/README.md")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WHOLE_COMMAND = re.compile(r"(\./run_(all|tests)\.sh|(\.\./)?\.venv/bin/|python |dask |cp |cd |pip |[A-Z_]+=\S* )")
BENCHMARK = re.compile(r"^\| `(\w+\.py[^`]*)` \|", re.MULTILINE)  # a row of the table in benchmarks/README.md


def texts():
    """The name and the text of every document; of a notebook its markdown cells."""
    pages = [*DOCUMENTS, *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
    yield from ((name, (ROOT / name).read_text(encoding="utf-8")) for name in pages)
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(file, as_version=4).cells
        yield file.name, "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def blocks():
    """Every fenced block as (language, body)."""
    return [block for _, text in texts() for block in FENCED.findall(text)]


def code_spans():
    """Every inline code span as (document, content on one line)."""
    spans = ((name, re.findall(r"`([^`]+)`", FENCED.sub("", text))) for name, text in texts())
    return [(name, " ".join(span.split())) for name, found in spans for span in found]


def shell_commands(body):
    """The commands of a fenced block; lines that belong together are one command, comments at the end are dropped."""
    commands, text = [], ""
    for line in body.splitlines():
        text += line
        try:
            unfinished = text.endswith("\\")
            shlex.split(text, comments=True)
        except ValueError:  # a quotation goes on in the next line
            unfinished = True
        if unfinished:
            text += "\n"
        else:
            commands.append(re.sub(r"\s+# .*", "", text))
            text = ""
    assert not text, f"an unfinished command: {text}"
    return [command for command in commands if command.strip()]


def key_of_block(language, body):
    """What stands for a block of Python or YAML in `DOCUMENTED`: it is one command."""
    return f"{language}: {body.splitlines()[0]}"


def documented_commands():
    """Every command that the documents name, in their order, once."""
    found = []
    for language, body in blocks():
        found += [key_of_block(language, body)] if language in ("python", "yaml") else shell_commands(body)
    found += [span for _, span in code_spans() if WHOLE_COMMAND.match(span)]
    for name, text in texts():
        if name == "benchmarks/README.md":
            found += [f".venv/bin/python benchmarks/{command}" for command in BENCHMARK.findall(text)]
    return [*dict.fromkeys(found)]


# ---------------------------------------------------------------- what is run

# One value of every parameter, unlike the defaults of all chapters and unlike that of the tiny profile.
BY_OPTION = {"data": "--data", "weights": "--weights", "external": "--test"}
EVERY = {
    "data": "my_photos",
    "photos": "my_photos.csv",
    "sample_count": 100,
    "sample_size": 64,
    "image_size": 40,
    "validation_share": 0.25,
    "test_share": 0.25,
    "phash_distance": 2,
    "data_seed": 3,
    "epochs": 3,
    "patience": None,
    "batch_size": 8,
    "learning_rate": 0.002,
    "filters": [4, 8, 8, 8, 8],
    "augmentation": {"flip": False, "rotation": 20, "shift": 0.1, "zoom": 0.1},
    "backgrounds": "replaced",
    "balance": "class_weight",
    "precision": "bfloat16",
    "backbone_precision": "float32",
    "seed": 5,
    "repeats": 2,
    "shrink": 1,
    "variants": ["large batches"],
    "own_variants": {"few filters": {"filters": [4, 4, 4]}},
    "search_trials": 3,
    "search_epochs": 2,
    "backbones": ["EfficientNetLite0", "VGG16"],
    "weights": "my_weights",
    "views": 3,
    "head_epochs": 3,
    "learning_rates": [0.002],
    "fine_tuning_epochs": 2,
    "fine_tuning_rate": 0.001,
    "distilled_epochs": 3,
    "background_sizes": [0.8],
    "background_views": [3],
    "background_passes": 2,
    "external": "other_photos",
    "photo": "my_photos/Oak/0.png",
    "saved_model": "any background",
    "draws": 150,
    "probe_images": 5,
    "fractions": [0.5],
}

OWN_VARIANTS = """./run_all.sh -p own_variants "{
  'few filters': {'filters': [8, 16, 32], 'dropout': [0.1, 0.1]},
  'my own': {'batch_size': 16, 'layers': [
    ['Rescaling', {'scale': 0.004}],
    ['Conv2D', {'filters': 32, 'kernel_size': 5, 'activation': 'relu'}],
    ['GlobalMaxPooling2D', {}],
    ['Dense', {'units': 14, 'activation': 'softmax'}]]}}\""""


def every_option():
    """The command with every option and every parameter."""
    words = ["./run_all.sh", "--profile", "tiny"]
    words += [word for name, option in BY_OPTION.items() for word in (option, EVERY[name])]
    words += ["--scheduler", "local:1", "--force", "--only", "01,02,03,04,05,06"]
    return shlex.join(words + every_parameter())


def every_parameter(**others):
    """Options that give every parameter its value in `EVERY`, or another one; balance is the first."""
    return words_for({"balance": EVERY["balance"]} | EVERY | others)


def words_for(values):
    """Options that give parameters their values, without those that have an option of their own."""
    return [word for name, value in values.items() if name not in BY_OPTION for word in ("-p", name, str(value))]


OF_CHAPTER_SIX = {name: EVERY[name] for name in chapters.chapter_parameters(chapters.CHAPTERS[5])}

# Shell commands, given in the folder of a copy of the project; {port} is a free one.
COMMANDS = {
    "every option": every_option(),
    # After "every option", with its parameters but one: so nothing is trained again.
    "other photos": "./run_all.sh --profile tiny --weights my_weights --test other_photos "
    + shlex.join(every_parameter(draws=200)),
    "photos without labels": "./run_all.sh --profile tiny --only 06 --test unlabelled "
    + shlex.join(words_for(OF_CHAPTER_SIX | {"draws": 200, "photo": "leaf.jpg"})),
    "plant_village": "./run_all.sh --data plant_village --profile tiny --only 01,02 -p augmentation None",
    "published photos": "./run_all.sh --data plant_village --profile tiny --only 01 -p photos results/photos.csv",
    "own variants": "./run_all.sh --profile tiny --only 03 "
    f"{OWN_VARIANTS.removeprefix('./run_all.sh ')} -p augmentation None",
    "scheduler": ".venv/bin/dask scheduler --host 127.0.0.1 --port {port}",
    "worker": ".venv/bin/dask worker tcp://127.0.0.1:{port} --nthreads 1 --no-dashboard",
    "cluster": "TF_NUM_INTRAOP_THREADS=16 ./run_all.sh --profile full --scheduler tcp://127.0.0.1:{port} --only 01,02 "
    "-p epochs 1 -p repeats 2 -p precision bfloat16 -p image_size 32",
    "tests": "./run_tests.sh tests/test_parameters.py -n 0 -k two_meanings",
    "style": ".venv/bin/ruff check --fix && .venv/bin/ruff format "
    "&& .venv/bin/jupyter nbconvert --clear-output --inplace notebooks/*.ipynb",
    "lab": ".venv/bin/jupyter lab notebooks --no-browser --allow-root --ServerApp.ip=127.0.0.1 "
    "--ServerApp.port={port} --IdentityProvider.token=known",
    "tensorboard": ".venv/bin/tensorboard --logdir runs --host 127.0.0.1 --port {port}",
    "leaves": ".venv/bin/python -m leaves.sample --out synthetic --count 70 --size 48 --seed 0",
    "sample_realism": ".venv/bin/python benchmarks/sample_realism.py synthetic --count 70",
    "transfer_learning": "./run_all.sh --only 01 --data synthetic --profile tiny "
    "&& .venv/bin/python benchmarks/transfer_learning.py --weights my_weights --backbone VGG16 --size 32 --rounds 1 "
    "--epochs 1 --tuning-epochs 1 --views 1",
    "data_chapter": ".venv/bin/python benchmarks/data_chapter.py synthetic --count 30",
    "custom_cnn": ".venv/bin/python benchmarks/custom_cnn.py --torch .venv/bin/python --size 32 --quick",
    "checkpoints": ".venv/bin/python benchmarks/checkpoints.py --epochs 1 --size 32 --rounds 1",
    "backgrounds": ".venv/bin/python benchmarks/backgrounds.py --size 48 --count 4 --rounds 1",
    "report": ".venv/bin/python benchmarks/report.py --chapters 01 --profile tiny",
    "scaling": ".venv/bin/python benchmarks/scaling.py --counts 80 70 --chapters 01",
    "verdict_rules": ".venv/bin/python benchmarks/verdict_rules.py --quick",
    "compare_runs": ".venv/bin/python benchmarks/compare_runs.py results/runs",
    "early_scores": ".venv/bin/python benchmarks/early_scores.py",
    "best_epochs": ".venv/bin/python benchmarks/best_epochs.py",
}


@dataclass
class Run:
    """The command in `COMMANDS` that a documented one is run by."""

    name: str
    swap: dict = field(default_factory=dict)  # a documented word: what stands in its place to be small; "" for none


SERVER = {"192.0.2.1": "127.0.0.1", "8786": "{port}", "tcp://192.0.2.1:8786": "tcp://127.0.0.1:{port}"}
SERVER |= {"tcp://leaves-scheduler:8786": "tcp://127.0.0.1:{port}", "...": "tcp://127.0.0.1:{port}"}

# Every documented command: how it is run, or why it cannot be run here.
DOCUMENTED = {
    "./run_all.sh": Run("other photos"),
    "./run_tests.sh": Run("tests"),
    "./run_tests.sh tests/test_parameters.py": Run("tests"),
    "./run_tests.sh -n 0 -k split": Run("tests", {"split": "two_meanings"}),
    ".venv/bin/ruff check --fix": Run("style"),
    ".venv/bin/ruff format": Run("style"),
    ".venv/bin/jupyter nbconvert --clear-output --inplace notebooks/*.ipynb": Run("style"),
    "./run_all.sh --profile tiny": Run("other photos"),
    "./run_all.sh --plan": "run by test_a_plan_counts_the_trainings_and_changes_nothing in test_run_all.py",
    "./run_all.sh --help": "run by test_help_names_every_option in test_run_all.py",
    "./run_all.sh --data my_photos": Run("every option"),
    "./run_all.sh --data plant_village": Run("plant_village"),
    "./run_all.sh --test other_photos": Run("other photos"),
    "python: import keras": "run by test_the_best_model_answers_as_the_page_says, as it stands in the README",
    OWN_VARIANTS: Run("own variants"),
    "images -> data/split.csv -> runs/* -> report/scores.csv -> report/report.html": "no command: the flow of the data",
    ".venv/bin/jupyter lab notebooks": Run("lab"),
    ".venv/bin/python benchmarks/sample_realism.py DIR": Run("sample_realism", {"DIR": "synthetic"}),
    "./run_all.sh --data plant_village -p photos results/photos.csv": Run("published photos"),
    "./run_all.sh --data plant_village --profile study -p photos results/photos.csv": Run(
        "published photos", {"study": "tiny"}
    ),
    "./run_all.sh --scheduler local:4": Run("every option", {"local:4": "local:1"}),
    ".venv/bin/dask scheduler --host 192.0.2.1 --port 8786": Run("scheduler", SERVER),
    "cd /shared/leaf-report": "the folder in which the next command is given",
    ".venv/bin/dask worker tcp://192.0.2.1:8786 --nthreads 1 --no-dashboard": Run("worker", SERVER),
    "python: from dask_jobqueue import SLURMCluster": "needs the commands of SLURM (sbatch)",
    "yaml: apiVersion: kubernetes.dask.org/v1": "needs a Kubernetes cluster with the Dask operator",
    "TF_NUM_INTRAOP_THREADS=16 ./run_all.sh --scheduler ...": Run("cluster", SERVER),
    "./run_all.sh --profile full --scheduler tcp://192.0.2.1:8786": Run("cluster", SERVER),
    ".venv/bin/pip install dask-jobqueue": "changes the .venv that all tests run in, and is for SLURM alone",
    "./run_all.sh --scheduler tcp://leaves-scheduler:8786": Run("cluster", SERVER),
    ".venv/bin/python -m leaves.sample --out synthetic --count 1000 --size 128 --seed 0": Run(
        "leaves", {"1000": "70", "128": "48"}
    ),
    ".venv/bin/python benchmarks/custom_cnn.py --torch PYTHON": Run("custom_cnn", {"PYTHON": ".venv/bin/python"}),
    "./run_all.sh --only 01,02 -p epochs 28 -p repeats 3 -p precision bfloat16": Run("cluster", {"28": "1", "3": "2"}),
    ".venv/bin/python benchmarks/scaling.py --counts 16000 4000 1000": Run(
        "scaling", {"16000": "80", "4000": "70", "1000": ""}
    ),
    ".venv/bin/python benchmarks/checkpoints.py --epochs 8": Run("checkpoints", {"8": "1"}),
    "./run_all.sh --only 01": Run("transfer_learning"),
    "./run_all.sh --only 01 --data DIR": Run("transfer_learning", {"DIR": "synthetic"}),
    ".venv/bin/python benchmarks/transfer_learning.py --weights DIR": Run("transfer_learning", {"DIR": "my_weights"}),
    "./run_all.sh -p balance class_weight": Run("every option"),
    ".venv/bin/tensorboard --logdir runs": Run("tensorboard"),
    "./run_all.sh --only 06 -p photo PATH": Run("photos without labels", {"PATH": "leaf.jpg"}),
    "./run_all.sh --data DIR": Run("every option", {"DIR": "my_photos"}),
    ".venv/bin/python benchmarks/data_chapter.py DIR": Run("data_chapter", {"DIR": "synthetic"}),
    ".venv/bin/python benchmarks/checkpoints.py": Run("checkpoints"),
    ".venv/bin/python benchmarks/backgrounds.py": Run("backgrounds"),
    ".venv/bin/python benchmarks/report.py": Run("report"),
    ".venv/bin/python benchmarks/scaling.py": Run("scaling"),
    ".venv/bin/python benchmarks/verdict_rules.py": Run("verdict_rules"),
    ".venv/bin/python benchmarks/early_scores.py": Run("early_scores"),
    ".venv/bin/python benchmarks/best_epochs.py": Run("best_epochs"),
    ".venv/bin/python benchmarks/compare_runs.py FOLDER": Run("compare_runs", {"FOLDER": "results/runs"}),
    ".venv/bin/python tests/take_cover.py": "run by test_the_picture_of_the_cover_is_taken in test_run_page.py",
    ".venv/bin/python -m leaves.report.publish": "run by test_a_run_that_is_no_study_keeps_its_evidence",
}


def groups(words):
    """Words cut before each option and each ``&&``: an option stays with its values."""
    cut = []
    for word in words:
        if not cut or word.startswith("-") or word == "&&":
            cut.append([])
        cut[-1].append(word)
    return cut


def holds(run, wanted):
    """Whether a command's words hold others: the same options with the same values in order, others between them."""
    left = iter(groups(run))
    return all(
        any(part == own[place : place + len(part)] for own in left for place in range(len(own)))
        for part in groups(wanted)
    )


def test_every_documented_command_is_in_the_table_and_no_other():
    found = documented_commands()
    assert not [command for command in found if command not in DOCUMENTED], "say in DOCUMENTED how these are run"
    assert not [command for command in DOCUMENTED if command not in found], "these are no longer documented"


@pytest.mark.parametrize("command", [command for command, how in DOCUMENTED.items() if isinstance(how, Run)])
def test_what_is_run_holds_the_documented_words(command):
    how = DOCUMENTED[command]
    words = [how.swap.get(word, word) for word in shlex.split(command)]
    assert holds(shlex.split(COMMANDS[how.name]), [word for word in words if word])


def test_every_command_of_the_table_is_run():
    source = Path(__file__).read_text(encoding="utf-8")
    everything = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    for name in {*COMMANDS} - {*TOLD}:
        assert re.search(rf'(run_in|served)\(\w+, "{name}"', source)
    for how in DOCUMENTED.values():
        if isinstance(how, str) and how.startswith("run by"):
            assert f"def {how.split()[2].strip(',')}(" in everything


def test_a_changed_command_is_found():
    assert shell_commands("./a.sh --b 'c\nd'  # e\n./f \\\n  --g\n") == ["./a.sh --b 'c\nd'", "./f \\\n  --g"]
    run = shlex.split("./a.sh --x 1 -p b 2 && cp a b")
    assert holds(run, shlex.split("./a.sh -p b 2 && cp a b"))
    for wrong in ("./a.sh -p b 3", "./a.sh -p b 2 --x 1", "./a.sh --y", "./b.sh", "./a.sh 1", "./a.sh && cp b a"):
        assert not holds(run, shlex.split(wrong))


OPTIONS = [span for name, span in code_spans() if re.match(r"(--[a-z]|-p )", span)]
OF_OTHERS = {"--nthreads 1": "of dask worker"}


@pytest.mark.parametrize("span", sorted({*OPTIONS} - {*OF_OTHERS}))
def test_every_documented_option_is_taken(span, tmp_path):
    words = shlex.split(span.replace("NAME VALUE", "seed 1").replace("DIR", shlex.quote(str(tmp_path))))
    if len(words) == 1 and words != ["--force"]:  # the option's name alone
        assert words[0] in options.argument_parser().format_help()
    else:
        options.read_options(words)


def test_the_blocks_that_cannot_be_run_are_whole():
    for language, body in blocks():
        if language == "python":
            compile(body, "a document", "exec")
        if language == "yaml":
            spec = yaml.safe_load(body)["spec"]
            [worker], [scheduler] = (spec[role]["spec"]["containers"] for role in ("worker", "scheduler"))
            by_hand = COMMANDS["worker"].split()
            assert [word for word in worker["args"] if word in by_hand] == ["--nthreads", "1", "--no-dashboard"]
            assert scheduler["command"][-1] == "scheduler"


# ---------------------------------------------------------------- the copy


HUES = {"Ash": (255, 160, 60), "Elm": (60, 255, 60), "Oak": (60, 120, 255), "Yew": (255, 60, 255)}
SPECIES = ("Apple", "Blueberry", "Cherry_(including_sour)", "Corn_(maize)", "Grape", "Orange", "Peach", "Pepper,_bell")
SPECIES += ("Potato", "Raspberry", "Soybean", "Squash", "Strawberry", "Tomato")
QUIET = os.environ | {"https_proxy": "http://127.0.0.1:9"}  # nobody: ImageNet weights are never downloaded


def coloured(hue, seed, size=(96, 72)):
    """A picture of smooth random shades of one colour, different for every seed."""
    shades = np.random.default_rng(seed).uniform(0.2, 1, (6, 6, 1)) * hue
    return Image.fromarray(shades.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def save(picture, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


def free_port():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        return nobody.getsockname()[1]


def environment(copy):
    """The environment in which Python finds the copy's own modules, as it does where .venv was made for the copy."""
    return QUIET | {"PYTHONPATH": str(copy)}


def run_in(copy, name, port=0):
    """Run one of `COMMANDS` in a copy; returns the finished process. Its status must be 0."""
    done = subprocess.run(
        ["bash", "-c", COMMANDS[name].replace("{port}", str(port))],
        cwd=copy,
        env=environment(copy),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


@contextlib.contextmanager
def served(copy, name, port, log, **names):
    """One of `COMMANDS` as long as it is needed, with names of its own in the environment; Ctrl-C ends it."""
    with open(copy / log, "w", encoding="utf-8") as out:
        text = COMMANDS[name].replace("{port}", str(port))
        env = environment(copy) | names
        process = subprocess.Popen(
            ["bash", "-c", text], cwd=copy, env=env, stdout=out, stderr=out, start_new_session=True
        )
        try:
            yield process
            assert process.poll() is None, (copy / log).read_text()[-2000:]
        finally:
            for number, patience in ((signal.SIGINT, 3), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(patience)
                    break


def ask(url, patience=60):
    """What a server answers, once it does."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's `content`."""

    def do_GET(self):
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def mendeley():
    """A server with an archive like PlantVillage's: 14 species, 15 folders, 8 small pictures each."""
    packed, folders = io.BytesIO(), [f"{name}___healthy" for name in SPECIES] + ["Apple___Apple_scab"]
    with zipfile.ZipFile(packed, "w") as archive:
        for number, folder in enumerate(folders):
            hue = np.random.default_rng(number).integers(60, 256, 3)
            for seed in range(8):
                content = io.BytesIO()
                coloured(hue, [number, seed], (64, 64)).save(content, "PNG")
                name = f"Plant_leave_diseases_dataset_without_augmentation/{folder}/image ({seed}).JPG"
                archive.writestr(name, content.getvalue())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.asked = packed.getvalue(), 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def copy(tmp_path_factory, mendeley):
    """A copy of the project with the photos and weights of the commands; PlantVillage comes from `mendeley`."""
    copy = clone(tmp_path_factory.mktemp("documented") / "leaf report")
    for number, (label, hue) in enumerate(HUES.items()):
        for seed in range(16 if label != "Yew" else 0):
            save(coloured(hue, [number, seed]), copy / "my_photos" / label / f"{seed}.png")
        for seed in range(5):
            picture = coloured(hue, [number, seed, 1], (80, 64))
            save(picture, copy / "other_photos" / label / f"{seed}.jpg", quality=95)
            save(picture, copy / "unlabelled" / f"{label} {seed}.jpg", quality=95)
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(copy.glob("my_photos/*/*"))]
    pd.DataFrame({"sha256": hashes[2:]}).to_csv(copy / "my_photos.csv", index=False)  # two are not listed
    (copy / "my_weights").mkdir()
    keras.applications.VGG16(include_top=False, weights=None).save_weights(copy / "my_weights" / "VGG16.weights.h5")
    source = (copy / "leaves" / "sources.py").read_text(encoding="utf-8")
    for pattern, new in {
        r'"url": "[^"]*"\s*"[^"]*"': f'"url": "http://127.0.0.1:{mendeley.server_port}/file_downloaded"',
        r'"sha256": "[0-9a-f]{64}"': f'"sha256": "{hashlib.sha256(mendeley.content).hexdigest()}"',
        r'"photos": 54305': '"photos": 120',
    }.items():
        source, count = re.subn(pattern, new, source)
        assert count == 1
    (copy / "leaves" / "sources.py").write_text(source, encoding="utf-8")
    return copy


# ---------------------------------------------------------------- every option and every parameter


def test_every_parameter_has_a_value_that_differs_from_all_others():
    assert {*EVERY} == {*PARAMETERS}
    profile = yaml.safe_load((ROOT / "notebooks" / "profiles" / "tiny.yaml").read_text(encoding="utf-8"))
    for others in (profile, *map(chapters.chapter_parameters, chapters.CHAPTERS)):
        assert not [name for name, value in others.items() if EVERY[name] == value]


def test_every_option_is_given():
    known = {option for action in options.argument_parser()._actions for option in action.option_strings}
    assert known - {"-h", "--help", "--plan"} == {  # which have tests of their own
        word for word in shlex.split(COMMANDS["every option"]) if re.match(r"--[a-z]|-p$", word)
    }


@pytest.fixture(scope="module")
def every(copy):
    """The copy after a run with every option and every parameter."""
    run_in(copy, "every option")
    return copy


def test_every_parameter_reaches_the_chapters_that_have_it(every):
    for chapter in chapters.CHAPTERS:
        executed = nbformat.read(every / "report" / chapter.name, as_version=4)
        wanted = {
            name: str((every / EVERY[name]).resolve()) if PARAMETERS[name].place else EVERY[name]
            for name in chapters.chapter_parameters(chapter)
        }
        assert executed.metadata.papermill.parameters == wanted
    assert {"03-gaps.png", "06-other-photos.png"} <= {file.name for file in every.glob("report/figures/*.png")}


def test_every_model_has_a_score_on_the_second_test_set(every):
    scores = pd.read_csv(every / "report" / "scores.csv")
    listed = list(zip(scores["model"], scores["chapter"], strict=True))
    assert [row for row in listed if row[0] in EVERY["backbones"]] == [
        (name, chapter) for chapter in (4, 5) for name in EVERY["backbones"]
    ]
    assert scores[["external_accuracy", "external_macro_f1"]].notna().all(axis=None)
    assert "the class Yew, which no model knows" in (every / "report" / "report.html").read_text(encoding="utf-8")


def test_the_best_model_answers_as_the_page_says(every):
    """The README's lines, on a photo that the camera stored lying on its side."""
    [stored] = every.glob("runs/*/as_saved.npz")
    split = pd.read_csv(every / "data" / "split.csv")
    photos = split[split["split"] == "test"].sort_values(["label", "sha256"]).reset_index(drop=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    [code] = [body for language, body in blocks() if key_of_block(language, body) == "python: import keras"]
    with np.load(stored) as arrays:
        expected = arrays["probabilities"]
    row = int(expected.max(axis=1).argmin())  # the photo that it is least sure of
    with Image.open(every / photos["path"][row]) as photo:
        lying = photo.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    lying.save(every / "leaf.jpg", "PNG", exif=exif)  # without loss; files are read by their content
    done = subprocess.run(
        [every / ".venv" / "bin" / "python", "-c", code], cwd=every, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    species, probability, familiar, _ = done.stdout.split()
    assert 0 <= float(familiar) <= 1
    assert species == sorted(set(split["label"]))[expected[row].argmax()]
    page = (every / "report" / "report.html").read_text(encoding="utf-8")
    assert re.search(r"report/best_model.keras \(\S+ \(any background\), ", page)  # as -p saved_model asks
    assert float(probability) == pytest.approx(expected[row].max(), abs=1e-3)


def test_a_run_that_is_no_study_keeps_its_evidence(every):
    command = [every / ".venv" / "bin" / "python", "-m", "leaves.report.publish"]
    published = [file for file in (every / "results").glob("*") if file.is_file()]
    before = {file: file.read_bytes() for file in published}
    done = subprocess.run(command, cwd=every, capture_output=True, text=True, check=False)
    assert (done.returncode, "publish: Chapter " in done.stderr, " was executed with " in done.stderr) == (
        1,
        True,
        True,
    )
    finished = {file.parent.name for file in every.glob("runs/0*/result.json")}
    assert {folder.name for folder in every.glob("results/runs/*")} >= finished  # and those that are committed
    assert {file: file.read_bytes() for file in (every / "results").glob("*") if file.is_file()} == before


# ---------------------------------------------------------------- the other commands, in their order


def test_the_photos_used_last_are_gone_on_with_and_a_second_test_set_scored(every):
    trained = {file: file.stat().st_mtime_ns for file in every.glob("runs/*/result.json")}
    told = run_in(every, "other photos").stdout
    assert {file: file.stat().st_mtime_ns for file in every.glob("runs/*/result.json")} == trained
    executed = [nbformat.read(every / "report" / chapters.CHAPTERS[number].name, as_version=4) for number in (0, 5)]
    parameters = [chapter.metadata.papermill.parameters for chapter in executed]
    assert (parameters[0].get("data"), parameters[1]["draws"]) == (None, 200)
    [listed] = every.glob("data/listed-*")  # the photos of my_photos that my_photos.csv lists
    assert f"Using the photos of {listed.resolve()}, as in the last run" in told
    count = len([*every.glob("my_photos/*/*")])
    assert len([*listed.glob("*/*")]) == count - 2
    assert pd.read_csv(every / "report" / "scores.csv")["external_macro_f1"].between(0, 1).all()


def test_photos_without_labels_are_classified(every):
    save(coloured(HUES["Oak"], 5), every / "leaf.jpg", quality=95)
    run_in(every, "photos without labels")
    named = pd.read_csv(every / "report" / "predictions.csv")
    assert sorted(named["path"]) == sorted(str(file) for file in every.glob("unlabelled/*"))
    assert set(named["label"]) <= {*HUES} - {"Yew"}
    assert named["familiarity"].between(0, 1).all()
    assert set(named["familiar"]) <= {"yes", "no"}
    executed = nbformat.read(every / "report" / "06_comparison.ipynb", as_version=4)
    assert executed.metadata.papermill.parameters["photo"] == str(every / "leaf.jpg")


@pytest.fixture(scope="module")
def village(copy, mendeley):
    """The copy after two chapters on what the server of PlantVillage sends."""
    run_in(copy, "plant_village")
    assert mendeley.asked == 1
    return copy


def test_plant_village_is_downloaded_and_folded_into_its_species(village):
    split = pd.read_csv(village / "data" / "split.csv")
    assert len(split) > 100
    assert set(split["label"]) == {re.sub(r"[_,].*", "", name) for name in SPECIES}
    assert set(split["disease"]) == {"healthy", "Apple_scab"}


def test_models_of_ones_own_are_trained(village):
    run_in(village, "own variants")
    trained = [json.loads(file.read_text())["name"] for file in village.glob("runs/03-*/spec.json")]
    assert {"few filters", "my own"} <= {*trained}


def test_a_cluster_started_by_hand_trains(copy):
    port, before = free_port(), {*copy.glob("runs/02-*/result.json")}
    with served(copy, "scheduler", port, "scheduler.log"), served(copy, "worker", port, "worker.log"):
        run_in(copy, "cluster", port)
        with Client(f"tcp://127.0.0.1:{port}", timeout=10) as client:
            threads = client.run(lambda: getattr(sys.modules.get("leaves.training"), "THREADS", None))
    assert [*threads.values()] == [16]  # the worker trained, with as many as the command was told
    assert len({*copy.glob("runs/02-*/result.json")} - before) == 3  # two seeds and the refit


def test_the_photos_of_the_published_study_are_taken_out_of_plant_village(village):
    split = pd.read_csv(village / "data" / "split.csv")
    listed = split.groupby("label").head(6)
    assert len(listed) < len(split)
    (village / "results").mkdir(exist_ok=True)
    listed[["sha256"]].to_csv(village / "results" / "photos.csv", index=False)
    run_in(village, "published photos")
    assert {*pd.read_csv(village / "data" / "split.csv")["sha256"]} == {*listed["sha256"]}


def test_jupyter_lab_shows_the_notebooks(copy):
    port = free_port()
    with served(copy, "lab", port, "lab.log"):
        listing = json.loads(ask(f"http://127.0.0.1:{port}/api/contents?token=known"))
        assert {chapter.name for chapter in chapters.CHAPTERS} <= {entry["name"] for entry in listing["content"]}
        assert "JupyterLab" in ask(f"http://127.0.0.1:{port}/lab?token=known")


def test_tensorboard_shows_the_histograms(every):
    port = free_port()
    with served(every, "tensorboard", port, "tensorboard.log"):
        deadline, found = time.monotonic() + 60, {}
        while not found and time.monotonic() < deadline:
            found = json.loads(ask(f"http://127.0.0.1:{port}/data/plugin/histograms/tags"))
        assert any(name.startswith("02-FinalModel") for name in found)


def test_run_tests_runs_what_is_named(copy):
    assert " passed" in run_in(copy, "tests").stdout


def test_ruff_finds_nothing_to_change(copy):
    assert "All checks passed" in run_in(copy, "style").stdout


# ---------------------------------------------------------------- benchmarks

# What every benchmark says at the end, when it has come so far.
TOLD = {
    "leaves": "",
    "sample_realism": "recall per species",
    "backgrounds": "times the affine augmentation",
    "transfer_learning": "1 epochs: .* times faster",
    "data_chapter": "unchanged",
    "custom_cnn": "epoch with augmentation: this project to plain Keras",
    "checkpoints": "checkpoints by default",
    "report": r"\| 01 \| \d+ \| \d+ \|",
    "scaling": "peak GB",
    "verdict_rules": "trainings of FinalModel. The standard deviation of macro F1",
    "compare_runs": r"Not counted: \d\d+ copies of published trainings, 0 published trainings without",
    "early_scores": r"after 6 epochs +\d\.\d\d +\d\.\d\d",
    "best_epochs": r"FinalModel +5 +0 +0\.85 +\d\.\d\d +\d\.\d\d",
}


@pytest.fixture(scope="module")
def own_copy(copy, tmp_path_factory):
    """Another copy of the project, for the benchmarks, with rendered leaves in it."""
    own = clone(tmp_path_factory.mktemp("benchmarks") / "leaf report")
    (own / "my_weights").symlink_to(copy / "my_weights")
    run_in(own, "leaves")
    return own


@pytest.mark.parametrize("name", [*TOLD][1:])
def test_a_benchmark_comes_to_its_end(own_copy, name):
    assert re.search(TOLD[name], run_in(own_copy, name).stdout)
