#!/usr/bin/env bash
# Finds a supported Python, makes .venv and installs requirements.txt into it, each only if need be.
#   ./setup.sh            set everything up
#   ./setup.sh --python   only print the Python that would be used (PYTHON=... names another)
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.13 python3.11 python3 python; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v -- "$candidate"
      return
    fi
    if [ "$candidate" = "${PYTHON:-}" ]; then
      break
    fi
  done
  local found="none was found"
  [ -z "${PYTHON:-}" ] || found="PYTHON=$PYTHON is not one"
  echo "The report needs Python 3.11, 3.12 or 3.13 with venv, and $found: install one, or name it as PYTHON=/path/to/python3.12." >&2
  return 1
}

python=$(find_python)
if [ "${1:-}" = --python ]; then
  echo "$python"
  exit
fi

venv=$here/.venv
stamp=$venv/requirements.installed
if ! [ -w "$here" ] && ! cat "$here/requirements.txt" "$here/constraints.txt" | cmp -s - "$stamp"; then
  echo "The folder $here cannot be written to, and .venv must be made in it: change its permissions, or copy it elsewhere." >&2
  exit 1
fi
if ! [ -x "$venv/bin/python" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
  echo "Making .venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
fi
if ! cat "$here/requirements.txt" "$here/constraints.txt" | cmp -s - "$stamp"; then
  echo "Installing requirements.txt into .venv (a few minutes, once)"
  if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"; then
    echo "The packages of requirements.txt could not be installed: see pip's message above, check the network, and run the same command again." >&2
    exit 1
  fi
  cat "$here/requirements.txt" "$here/constraints.txt" >"$stamp"
fi
# Notebooks find helpers.py and leaves/ wherever they are started from. A linked .venv belongs to another folder.
if ! [ -L "$venv" ] && [ "$(cat "$venv/project.installed" 2>/dev/null)" != "$here" ]; then
  if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable "$here"; then
    echo "The project could not be installed into .venv: see pip's message above, and run the same command again." >&2
    exit 1
  fi
  echo "$here" >"$venv/project.installed"
fi
