#!/usr/bin/env bash
# usage: bash scripts/run_tests.sh [--slow] [pytest arguments]
# Sets up the environment if needed, checks style (ruff, shellcheck), then runs the tests: the fast tier, with --slow
# the slow tier as well. Paths are relative to the repository; -n 0 runs all in one process (for a debugger).
# examples:
#   bash scripts/run_tests.sh
#   bash scripts/run_tests.sh tests/data -k splits
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

tier=(-m "not slow")
case "${1:-}" in
    --help | -h) sed -n 's/^# //p; /^set/q' scripts/run_tests.sh; exit 0 ;;
    --slow) tier=(-m "slow or not slow"); shift ;;
esac

PYTHON="$(bash scripts/setup_env.sh --print-python)"
if ! "$PYTHON" -m pytest --version >/dev/null 2>&1; then
    echo "error: $PYTHON has no pytest; run: $PYTHON -m pip install -e '.[test]'" >&2
    exit 2
fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
shellcheck="$(dirname "$PYTHON")/shellcheck"
if [[ -x "$shellcheck" ]]; then "$shellcheck" scripts/*.sh .ci/run; fi

# Two workers of one thread each take three quarters of the CPU time that torch's own threads do.
exec env OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" "$PYTHON" -m pytest -n 2 --dist loadfile "${tier[@]}" "$@"
