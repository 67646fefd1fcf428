#!/usr/bin/env bash
# Sets up .venv and runs the tests; arguments go to pytest, for example: ./run_tests.sh -k split
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
"$here/setup.sh"
cd "$here"
exec .venv/bin/python -m pytest "$@"
