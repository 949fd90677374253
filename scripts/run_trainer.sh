#!/usr/bin/env bash
# Start a training with the engine that --engine names; all other arguments are the trainer's. scripts/finetune_*.sh use it.
#
#   bash scripts/run_trainer.sh --engine xtuner --model tiny --datasets data/diy_ft_data.json --freeze-vit
#
# --engine transformers (default): unify_internvl2_train_r16.py, in .venv or the active environment.
# --engine xtuner: the same run started by xtuner, in .venv-xtuner (docs/xtuner.md).
# --yes: make that environment without a question. --set-up-only: make it, if need be, and train nothing.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0; fi
fail() { echo "error: $*" >&2; exit 2; }

engine=transformers yes="" only="" flags=()
while (($#)); do
    case "$1" in
        --engine) engine="${2:-}"; [[ $# == 1 ]] || shift ;;
        --engine=*) engine="${1#*=}" ;;
        --yes) yes=yes ;;
        --set-up-only) only=yes ;;
        *) flags+=("$1") ;;
    esac
    shift
done

set_up=("$ROOT/scripts/setup_env.sh")
case "$engine" in
    transformers) trainer=("$ROOT/unify_internvl2_train_r16.py") ;;
    xtuner)
        set_up+=(--xtuner) trainer=(-m formcoach.training.xtuner_engine)
        if [[ ! -d "$ROOT/.venv-xtuner" && ! "$yes" ]]; then
            remedy="bash ${set_up[*]}"
            [[ -t 0 ]] || fail "--engine xtuner needs an environment of its own, 5 to 7 GB; make it with: $remedy"
            read -r -p "--engine xtuner needs an environment of its own, 5 to 7 GB. Make .venv-xtuner now? [y/N] " yes || true
            [[ "$yes" == [yY]* ]] || fail "--engine xtuner needs .venv-xtuner; make it with: $remedy"
        fi
        ;;
    *) fail "--engine '$engine' is unknown; use transformers or xtuner" ;;
esac
PYTHON="$(bash "${set_up[@]}" --print-python)"
if [[ "$only" ]]; then echo "$PYTHON"; exit 0; fi
exec "$PYTHON" "${trainer[@]}" ${flags[@]+"${flags[@]}"}
