#!/usr/bin/env bash
# Check that training can start: packages, GPU, data, every clip, scripts and disk; one line a check.
#
#   bash scripts/verify_qved_setup.sh
#   DATASET_DIR=~/clips OUTPUT_DIR=data/annotaions MODEL_NAME=tiny bash scripts/verify_qved_setup.sh
#
# Arguments are those of utils/verify_setup.py (see --help).
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0; fi
PYTHON="$(bash "$ROOT/scripts/setup_env.sh" --print-python)"
PROJECT="$ROOT/"
if [[ "$PWD" == "$ROOT" ]]; then PROJECT=""; fi # in the project's folder messages need no long paths

exec "$PYTHON" "$ROOT/utils/verify_setup.py" \
    --dataset-dir "${DATASET_DIR:-${PROJECT}dataset}" \
    --output-dir "${OUTPUT_DIR:-${PROJECT}data/annotaions}" \
    --work-dir "${WORK_DIR:-${PROJECT}work_dirs/qevd_fit_300k_internvideo2_5_r16}" \
    ${MODEL_NAME:+--model "$MODEL_NAME"} \
    "$@"
