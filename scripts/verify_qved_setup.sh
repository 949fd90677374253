#!/usr/bin/env bash
# Check that training can start: packages, GPU, data, every clip, scripts and disk; one line a check.
#
#   bash scripts/verify_qved_setup.sh
#   DATASET_DIR=~/clips OUTPUT_DIR=data/annotaions MODEL_NAME=tiny bash scripts/verify_qved_setup.sh
#
# Arguments are those of utils/verify_setup.py (see --help).
set -euo pipefail

# shellcheck source=scripts/preamble.sh
source "$(dirname "${BASH_SOURCE[0]}")/preamble.sh"
PYTHON="$(bash "$ROOT/scripts/setup_env.sh" --print-python)"

exec "$PYTHON" "$ROOT/utils/verify_setup.py" \
    --dataset-dir "$DATASET_DIR" \
    --output-dir "$OUTPUT_DIR" \
    --project-dir "${PROJECT:-.}" \
    ${WORK_DIR:+--work-dir "$WORK_DIR"} \
    ${MODEL_NAME:+--model "$MODEL_NAME"} \
    "$@"
