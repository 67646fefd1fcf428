#!/usr/bin/env bash
# Executes the chapters and renders report/report.html; ./run_all.sh --help lists the options.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
case $here in *:*)
  echo "The name of the folder $here has a colon in it, which Python's search path cannot have: rename it." >&2
  exit 1
  ;;
esac
export PYTHONUTF8=1 # file names are UTF-8, whatever the locale says
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} # with -P below: the modules beside this script, wherever it is called
python=$("$here/setup.sh" --python)
"$python" -P -m leaves.report.options "$@" # options are wrong at once, not after an installation
for argument in "$@"; do
  case $argument in -h | --help) exit ;; esac
done
"$here/setup.sh"
exec "$here/.venv/bin/python" -P -m leaves.report "$@"
