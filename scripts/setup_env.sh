#!/usr/bin/env bash
# usage: bash scripts/setup_env.sh [--print-python]
# Installs requirements.txt and formcoach into .venv; at once when that is done already. An active virtual or conda
# environment that has this checkout (pip install -e .) is used as it is. To start afresh, remove .venv.
# --print-python: print nothing but the interpreter.
# example:
#   bash scripts/setup_env.sh && source .venv/bin/activate
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "$@" >&2; }
fail() { say "error: $*"; exit 2; }
finish() { if [[ "$only_print" ]]; then echo "$1"; else say "ready: $1 ${2:-}"; fi; exit 0; }
is_recent() { [[ "$("$1" --version 2>/dev/null)" =~ ^Python\ 3\.(1[1-9]|[2-9][0-9])\. ]]; }

only_print=""
case "$#:${1:-}" in
    0:) ;;
    1:--print-python) only_print=yes ;;
    1:--help | 1:-h) sed -n 's/^# //p; /^set/q' scripts/setup_env.sh; exit 0 ;;
    *) fail "unknown argument '$*' (see bash scripts/setup_env.sh --help)" ;;
esac

venv="$PWD/.venv" unfinished="$PWD/.venv/unfinished" stamp="$PWD/.venv/installed"
active="${VIRTUAL_ENV:-${CONDA_PREFIX:-$venv}}"
if [[ "$active" != "$venv" ]] && "$active/bin/python" utils/check_environment.py >/dev/null 2>&1; then
    finish "$active/bin/python" "(the active environment)"
fi
wanted="$PWD $(cat requirements.txt setup.py | cksum)" # what an environment that is up to date was made from
finish_if_ready() {
    [[ -f "$stamp" && "$(<"$stamp")" == "$wanted" ]] && is_recent "$venv/bin/python" || return 0
    finish "$venv/bin/python" "(to use it yourself: source .venv/bin/activate)"
}
finish_if_ready

if command -v flock >/dev/null; then # macOS has none: do not start two at once there
    exec 9>.venv.lock
    flock --nonblock 9 || { say "waiting for another set-up to finish ..."; flock 9; }
    finish_if_ready
fi
[[ "$active" == "$venv" ]] || say "the active environment lacks this checkout or a package that it needs: using .venv"
if [[ ! -d "$venv" || -e "$unfinished" ]]; then
    for python in python3.11 python3.12 python3.13 python3 python ""; do
        is_recent "$python" && "$python" -m ensurepip --version >/dev/null 2>&1 && break
    done
    [[ "$python" ]] || fail "no Python 3.11 or newer with venv found; install one (Debian, Ubuntu: python3 python3-venv)"
    rm -rf "$venv" && mkdir "$venv" && touch "$unfinished" # interrupted from here on, the next call starts afresh
    say "creating .venv with $("$python" --version) ..."
    "$python" -m venv "$venv" >&2 || fail "$python could not create .venv; see above, then run this again"
fi
is_recent "$venv/bin/python" || fail ".venv has no working Python 3.11 or newer; rm -r .venv, then run this again"
say "installing requirements.txt into .venv (1 to 5 GB: minutes the first time) ..."
pip() { PYTHONPATH="" "$venv/bin/python" -m pip --disable-pip-version-check "$@" >&2; }
rm -f "$stamp"
[[ -t 2 ]] && quiet="" || quiet=--quiet
pip install ${quiet:+"$quiet"} -r requirements.txt || fail "requirements.txt cannot be installed; see above, then run this again"
pip install --quiet --no-deps --no-build-isolation -e . || fail "formcoach cannot be installed; see above"
command -v c++ g++ clang++ >/dev/null || say "notice: no C++ compiler, so no DeepSpeed on the CPU: use --deepspeed none"
rm -f "$unfinished" && echo "$wanted" >"$stamp" && finish_if_ready
