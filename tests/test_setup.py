"""setup.sh with a stand-in for Python, pip and uv that installs nothing and writes down how it was called."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib

from conftest import ROOT

import pytest
from packaging.markers import Marker

TOOLS = ("bash", "cat", "cmp", "dirname", "head", "mkdir", "mv", "rm", "sleep", "touch", "cp")
# Code is evaluated by the real Python, which is told another version. The step that `HOLD` names does not end before
# the file `go` is there. `UV` says what uv does: fail, contradict, absent (pip cannot install it), or else install.
STAND_IN = r"""#!/usr/bin/env bash
folder=$(dirname "$LOG")
step() {
  echo "$1" >>"$LOG"
  [ "${HOLD:-}" != "$1" ] || while ! [ -e "$folder/go" ]; do sleep 0.02; done
}
case "$0 $*" in
  */uv\ *)
    step uv
    case ${UV:-} in
      fail) echo "error: no way to the index" >&2; exit 2 ;;
      contradict) echo "error: No solution found when resolving dependencies" >&2; exit 1 ;;
    esac ;;
  *" -c ") exit 0 ;;
  *" -c "*)
    claim="import sys; sys.version_info = (${VERSION:-3, 12}, 0); exec(sys.argv[1])"
    exec "$REAL" -I -S -c "$claim" "$2" ;;
  *" --version") echo "Python ${VERSION:-3, 12}" ;;
  *" -m venv --clear "*)
    rm -rf "$4"/* # as Python does it, the folder itself stays
    mkdir -p "$4/bin" "$4/lib/python3.12/site-packages"
    cp "$0" "$4/bin/python"
    step venv ;;
  *" config get "*) exit 1 ;;
  *" install --constraint "*" uv")
    step pip-uv
    [ "${UV:-}" != absent ] || exit 1
    cp "$0" "$(dirname "$0")/uv" ;;
  *" install --requirement "*)
    step pip
    [ "${PIP:-}" != fail ] || exit 1 ;;
esac
"""


class Project:
    """A folder with setup.sh and its input, and a search path with one stand-in for Python."""

    def __init__(self, folder, python="python3.12"):
        self.folder, self.tools, self.log = folder / "leaf report", folder / "tools", folder / "log"
        self.folder.mkdir()
        self.tools.mkdir()
        for name in ("setup.sh", "requirements.txt", "constraints.txt"):
            shutil.copy(ROOT / name, self.folder)
        for tool in TOOLS:
            (self.tools / tool).symlink_to(shutil.which(tool))
        (self.tools / "env").symlink_to("/usr/bin/env")
        if python:
            (self.tools / python).write_text(STAND_IN)
            (self.tools / python).chmod(0o755)

    def start(self, *arguments, **settings):
        """Start setup.sh in a process group of its own."""
        environment = {"PATH": str(self.tools), "LOG": str(self.log), "REAL": sys.executable, **settings}
        command = ["bash", self.folder / "setup.sh", *arguments]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def run(self, *arguments, **settings):
        """Run setup.sh; returns its exit status, its output, its errors and the steps that it took."""
        self.log.unlink(missing_ok=True)
        process = self.start(*arguments, **settings)
        output, errors = process.communicate(timeout=30)
        return process.returncode, output, errors, self.steps()

    def steps(self):
        return self.log.read_text().split() if self.log.exists() else []

    def wait_for(self, step):
        deadline = time.monotonic() + 20
        while step not in self.steps():
            assert time.monotonic() < deadline, f"{step} was not reached"
            time.sleep(0.02)

    def stamp(self):
        return self.folder / ".venv" / "requirements.installed"


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    yield made
    (tmp_path / "go").touch()  # what a failed test left waiting ends
    time.sleep(0.05)


def test_uv_installs_once(project):
    status, output, errors, steps = project.run()
    assert (status, errors, steps) == (0, "", ["venv", "pip-uv", "uv"])
    assert re.search(r"Making .*\n.*downloads about 900 MB.*\nSet up in \d+ s\n", output)
    [path_file] = project.folder.glob(".venv/lib/python3*/site-packages/*.pth")
    assert path_file.read_text() == f"{project.folder}\n"
    assert project.run() == (0, "", "", [])


@pytest.mark.parametrize(
    ("uv", "reason"), [("fail", "error: no way to the index"), ("absent", "could not be installed")]
)
def test_pip_is_the_way_out(project, uv, reason):
    status, output, errors, steps = project.run(UV=uv)
    assert (status, errors, steps[-1]) == (0, "", "pip")
    assert reason in output
    assert project.run() == (0, "", "", [])
    project.stamp().unlink()
    status, _, errors, _ = project.run(UV=uv, PIP="fail")
    assert (status, errors.count("\n"), project.stamp().exists()) == (1, 1, False)
    assert "run the same command again" in errors


def test_pins_that_contradict_each_other_are_no_case_for_pip(project):
    status, _, errors, steps = project.run(UV="contradict")
    assert (status, steps[-1], project.stamp().exists()) == (1, "uv", False)
    assert re.search("No solution found.*\n.*do not go together with Python", errors)


@pytest.mark.parametrize("step", ["venv", "pip-uv", "uv", "pip"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_setup_goes_on(project, step, number):
    settings = {"UV": "fail"} if step == "pip" else {}
    process = project.start(HOLD=step, **settings)
    project.wait_for(step)
    os.killpg(process.pid, number)
    errors = process.communicate(timeout=20)[1]
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert ("give the same command again" in errors) == (number == signal.SIGINT)
    assert project.steps()[-1] == step
    assert project.run()[::3] == (0, ["venv", "pip-uv", "uv"])
    assert project.run() == (0, "", "", [])


def test_two_at_once_wait_for_each_other(project):
    first = project.start(HOLD="uv")
    project.wait_for("uv")
    second = project.start()
    assert second.stdout.readline() == "Another set-up of this folder is under way: waiting for its end\n"
    (project.log.parent / "go").touch()
    assert [process.wait(timeout=20) for process in (first, second)] == [0, 0]
    assert second.communicate() == ("", "")
    assert project.steps() == ["venv", "pip-uv", "uv"]


def test_what_a_killed_setup_left_running_is_waited_for(project):
    first = project.start(HOLD="uv")
    project.wait_for("uv")
    first.kill()  # the shell alone: uv goes on
    second = project.start()
    assert second.stdout.readline().startswith("Another set-up")
    (project.log.parent / "go").touch()
    assert "Set up in" in second.communicate(timeout=20)[0]
    assert project.steps() == ["venv", "pip-uv", "uv"] * 2


def test_new_pins_are_installed_into_the_same_venv(project):
    project.run()
    with (project.folder / "requirements.txt").open("a") as file:
        file.write("one-more==1.0\n")
    assert project.run()[::3] == (0, ["pip-uv", "uv"])
    assert project.stamp().read_text().count("one-more==1.0") == 1


def test_a_venv_with_half_of_the_new_pins_is_recreated(project):
    project.run()
    wanted = (project.folder / "requirements.txt").read_text()
    (project.folder / "requirements.txt").write_text(f"{wanted}one-more==1.0\n")
    assert project.run(UV="fail", PIP="fail")[0] == 1
    (project.folder / "requirements.txt").write_text(wanted)
    assert project.run()[::3] == (0, ["venv", "pip-uv", "uv"])


def test_a_folder_that_moved_gets_a_venv_of_its_own(project):
    project.run()
    project.folder = project.folder.rename(project.folder.parent / "elsewhere")
    assert project.run()[3][0] == "venv"


def test_a_linked_venv_is_left_alone(project):
    project.run()
    own = project.folder / ".venv"
    own.rename(project.folder.parent / "shared")
    own.symlink_to(project.folder.parent / "shared")
    assert project.run() == (0, "", "", [])
    project.stamp().write_text("other pins\n")
    status, output, _, steps = project.run()
    assert (status, steps, output.count("\n")) == (0, [], 1)
    assert project.stamp().read_text() == "other pins\n"
    own.unlink()
    own.symlink_to("nowhere")
    status, _, errors, steps = project.run()
    assert (status, steps, errors.count("\n")) == (1, [], 1)
    assert "remove the link" in errors


@pytest.mark.parametrize(("version", "fits"), [("3, 10", False), ("3, 11", True), ("3, 14", True), ("3, 15", False)])
def test_a_machine_with_one_python(tmp_path, version, fits):
    project = Project(tmp_path, python="python3")
    status, output, errors, _ = project.run("--python", VERSION=version)
    assert status == (0 if fits else 1)
    assert output == (f"{project.tools / 'python3'}\n" if fits else "")
    assert (
        bool(re.fullmatch("The report needs Python 3.11, 3.12, 3.13 or 3.14 with venv, and none .*\n", errors)) != fits
    )


def test_a_machine_without_python_is_told_in_one_sentence(tmp_path):
    status, _, errors, _ = Project(tmp_path, python=None).run()
    assert (status, errors.count("\n")) == (1, 1)
    assert "none was found: install one" in errors


def test_python_names_another(project):
    other = project.folder.parent / "an other python"
    shutil.copy(project.tools / "python3.12", other)
    assert project.run("--python", PYTHON=str(other))[1] == f"{other}\n"


def test_every_supported_python_has_one_version_of_each_package():
    spans = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert spans == ">=3.11,<3.15"
    pinned = re.findall(r"^([\w-]+)==[^;\s]+(?:; (.*))?", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    for version in ("3.11", "3.12", "3.13", "3.14"):
        here = {"python_version": version, "python_full_version": f"{version}.7"}
        names = [name for name, marker in pinned if not marker or Marker(marker).evaluate(here)]
        assert sorted(names) == sorted({name for name, _ in pinned})
