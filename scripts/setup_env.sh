#!/usr/bin/env bash
# usage: bash scripts/setup_env.sh [--xtuner] [--print-python]
# Installs requirements.txt and formcoach into .venv; at once when that is done already. An active virtual or conda
# environment that has this checkout (pip install -e .) is used as it is. To start afresh, remove .venv.
# --xtuner: the same for .venv-xtuner and requirements-xtuner.txt, for `--engine xtuner` (docs/xtuner.md).
# --print-python: print nothing but the interpreter.
# example:
#   bash scripts/setup_env.sh && source .venv/bin/activate
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "$@" >&2; }
fail() { say "error: $*"; exit 2; }
finish() { if [[ "$only_print" ]]; then echo "$1"; else say "ready: $1 ${2:-}"; fi; exit 0; }
is_recent() { [[ "$("$1" --version 2>/dev/null)" =~ ^Python\ 3\.(1[1-9]|[2-9][0-9])\. ]]; }

only_print="" kind=""
for argument in "$@"; do
    case "$argument" in
        --print-python) only_print=yes ;;
        --xtuner) kind=-xtuner ;;
        --help | -h) sed -n 's/^# //p; /^set/q' scripts/setup_env.sh; exit 0 ;;
        *) fail "unknown argument '$argument' (see bash scripts/setup_env.sh --help)" ;;
    esac
done

venv="$PWD/.venv$kind" lock="requirements$kind.txt"
unfinished="$venv/unfinished" stamp="$venv/installed" active="${VIRTUAL_ENV:-${CONDA_PREFIX:-$venv}}"
[[ -z "$kind" ]] || active="$venv" # no other environment has it
if [[ "$active" != "$venv" ]] && "$active/bin/python" utils/check_environment.py >/dev/null 2>&1; then
    finish "$active/bin/python" "(the active environment)"
fi
wanted="$PWD $(cat "$lock" setup.py | cksum)" # what an environment that is up to date was made from
finish_if_ready() {
    [[ -f "$stamp" && "$(<"$stamp")" == "$wanted" ]] && is_recent "$venv/bin/python" || return 0
    finish "$venv/bin/python" "(to use it yourself: source .venv$kind/bin/activate)"
}
finish_if_ready

if command -v flock >/dev/null; then # macOS has none: do not start two at once there
    exec 9>".venv$kind.lock"
    flock --nonblock 9 || { say "waiting for another set-up to finish ..."; flock 9; }
    finish_if_ready
fi
[[ "$active" == "$venv" ]] || say "the active environment lacks this checkout or a package that it needs: using .venv"
bash scripts/fill_venv.sh "$venv" "$lock" ${kind:+--no-compile} # xtuner asks for much that is never imported here
[[ -z "$kind" ]] || cp formcoach/training/xtuner_shim.pth "$venv"/lib/python3*/site-packages/ # read at each start of Python
rm -f "$unfinished" && echo "$wanted" >"$stamp" && finish_if_ready
