#!/usr/bin/env bash
# usage: bash scripts/fill_venv.sh FOLDER REQUIREMENTS [options of pip install]
# Makes the virtual environment FOLDER, unless it is there, and installs REQUIREMENTS and formcoach into it: a part of
# scripts/setup_env.sh, which does it only where it is needed and never twice at once.
# example:
#   bash scripts/fill_venv.sh .venv requirements.txt
set -euo pipefail

say() { echo "$@" >&2; }
fail() { say "error: $*"; exit 2; }
is_recent() { [[ "$("$1" --version 2>/dev/null)" =~ ^Python\ 3\.(1[1-9]|[2-9][0-9])\. ]]; }

case "${1:-}" in --help | -h) sed -n 's/^# //p; /^set/q' "${BASH_SOURCE[0]}"; exit 0 ;; esac
[[ $# -ge 2 ]] || fail "wrong arguments (see bash scripts/fill_venv.sh --help)"
venv="$1" lock="$2" name="${1##*/}"
shift 2
if [[ ! -d "$venv" || -e "$venv/unfinished" ]]; then
    for python in python3.11 python3.12 python3.13 python3 python ""; do
        is_recent "$python" && "$python" -m ensurepip --version >/dev/null 2>&1 && break
    done
    [[ "$python" ]] || fail "no Python 3.11 or newer with venv found; install one (Debian, Ubuntu: python3 python3-venv)"
    rm -rf "$venv" && mkdir "$venv" && touch "$venv/unfinished" # interrupted from here on, the next call starts afresh
    say "creating $name with $("$python" --version) ..."
    "$python" -m venv "$venv" >&2 || fail "$python could not create $name; see above, then run this again"
fi
is_recent "$venv/bin/python" || fail "$name has no working Python 3.11 or newer; rm -r $name, then run this again"
say "installing $lock into $name (1 to 7 GB: minutes the first time) ..."
pip() { PYTHONPATH="" "$venv/bin/python" -m pip --disable-pip-version-check "$@" >&2; }
rm -f "$venv/installed"
[[ -t 2 ]] && quiet="" || quiet=--quiet
options=(${quiet:+"$quiet"} "$@")
install() { pip install ${options[@]+"${options[@]}"} "$@" || fail "$lock cannot be installed; see above, then run this again"; }
split='^# --no-deps' # what stands below this line, if it is there, is installed without what it asks for; it says why
install -r <(sed "/$split/,\$d" "$lock")
if grep -q "$split" "$lock"; then install --no-deps -r <(sed "1,/$split/d" "$lock"); fi
pip install --quiet --no-deps --no-build-isolation -e . || fail "formcoach cannot be installed; see above"
command -v c++ g++ clang++ >/dev/null || say "notice: no C++ compiler, so no DeepSpeed on the CPU: use --deepspeed none"
