#!/usr/bin/env bash
# Executes the chapters and renders report/report.html; ./run_all.sh --help lists the options.
set -euo pipefail
export PYTHONUTF8=1 # file names are UTF-8, whatever the locale says
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=$("$here/setup.sh" --python)
"$python" "$here/run_all.py" --check "$@" # options are wrong at once, not after an installation
for argument in "$@"; do
  case $argument in -h | --help) exit ;; esac
done
"$here/setup.sh"
exec "$here/.venv/bin/python" "$here/run_all.py" "$@"
