#!/usr/bin/env bash
# Finds a supported Python, makes .venv and installs requirements.txt into it, each only if needed.
#   ./setup.sh            set everything up; after an interruption, give the same command again
#   ./setup.sh --python   only print the Python that would be used (PYTHON=... names another)
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
venv=$here/.venv
stamp=$venv/requirements.installed # a copy of the installed requirements, written last: without it, .venv is recreated
origin=$venv/project.installed     # the folder for which .venv was made, because the commands in .venv contain its path

fail() {
  echo "$1" >&2
  exit 1
}

find_python() {
  local candidate candidates=(python3.12 python3.13 python3.11 python3.14 python3 python) found="none was found"
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON") found="PYTHON=$PYTHON is not one"
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      command -v -- "$candidate"
      return
    fi
  done
  fail "The report needs Python 3.11, 3.12, 3.13 or 3.14 with venv, and $found: install one (apt install python3-venv, brew install python@3.12, uv python install 3.12), or name it as PYTHON=/path/to/python3.12."
}

wanted() { cat "$here/requirements.txt" "$here/constraints.txt"; }

works() { "$venv/bin/python" -c '' 2>/dev/null; }

is_complete() { works && wanted | cmp -s - "$stamp" && { [ -L "$venv" ] || [ "$(cat "$origin" 2>/dev/null)" = "$here" ]; }; }

# The operating system releases the lock when the last process that holds it ends, even if that was killed. Python takes the lock,
# because macOS has no command flock.
wait_for_other_setups() {
  exec 9<"$venv"
  "$python" -c 'if True:
    import fcntl, signal
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another set-up of this folder is under way: waiting for its end", flush=True)
        fcntl.flock(9, fcntl.LOCK_EX)' || true # a file system without locks
}

# uv takes a quarter of pip's time. pip installs the packages where uv cannot be installed or fails.
install_packages() {
  local pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check) index output reason="uv could not be installed"
  if "${pip[@]}" install --constraint "$here/constraints.txt" uv 2>/dev/null; then
    index=${PIP_INDEX_URL:-$("${pip[@]}" config get global.index-url 2>/dev/null || true)} # uv does not read pip's settings
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    # Python writes bytecode when it first imports a module. If PYTHONDONTWRITEBYTECODE forbids that, uv writes it here, for faster starts.
    ! output=$("$venv/bin/uv" pip install --quiet ${PYTHONDONTWRITEBYTECODE:+--compile-bytecode} --python "$venv/bin/python" \
      --requirement "$here/requirements.txt" 2>&1) || return 0
    case $output in *"No solution found"*)
      fail "$output
The versions in requirements.txt and constraints.txt do not go together with $("$venv/bin/python" --version): see uv's message above."
      ;;
    esac
    reason="uv failed ($(head -n 1 <<<"$output"))"
  fi
  echo "$reason: pip installs the packages instead, which takes a few minutes"
  "${pip[@]}" install --requirement "$here/requirements.txt" ||
    fail "The packages of requirements.txt could not be installed: see pip's message above, check the network, and run the same command again."
}

python=$(find_python)
if [ "${1:-}" = --python ]; then
  echo "$python"
  exit
fi
! is_complete || exit 0
[ -w "$here" ] || fail "The folder $here cannot be written to, and .venv must be made in it: change its permissions, or copy it elsewhere."
if [ -L "$venv" ]; then # it belongs to another folder
  works || fail "$venv is a link to a folder without a working Python: remove the link, and run the same command again."
  echo "The linked .venv was not made from this folder's requirements.txt: it is used as it is"
  exit
fi

trap 'echo "Interrupted: give the same command again to go on" >&2; exit 130' INT TERM
mkdir -p "$venv"
wait_for_other_setups
! is_complete || exit 0
if ! works || ! [ -e "$stamp" ] || [ "$(cat "$origin" 2>/dev/null)" != "$here" ]; then
  echo "Making .venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
  echo "$here" >"$origin"
fi
rm -f "$stamp"
echo "Installing requirements.txt into .venv: downloads about 900 MB (600 on ARM) where the packages are not in uv's cache"
install_packages
# With this file, notebooks can import helpers.py and leaves/ from any folder.
site_packages=("$venv"/lib/python3*/site-packages)
echo "$here" >"${site_packages[0]}/leaf-report.pth"
wanted >"$stamp.unfinished"
mv "$stamp.unfinished" "$stamp"
echo "Set up in $SECONDS s"
