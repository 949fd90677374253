#!/usr/bin/env bash
# The tuned model and its base on the held-out test split: predictions, scores, and a report.
#
#   bash scripts/run_inference.sh --model_path work_dirs/qevd_fit_300k_internvideo2_5_r16 --limit 20
#
# Without --model_path, or --hf_repo for a model on the hub: the newest run (at WORK_DIR, if set). DATASET_DIR and
# OUTPUT_DIR name clips and split files. NPROC_PER_NODE: processes, one a GPU. A run that was stopped goes on with the
# same command.
# Arguments are those of utils/test_inference.py (see --help there): --model_path | --hf_repo, --test_json, --data_path,
# --output_dir, --device, --max_new_tokens, --base_model, --limit, --batch_size, --no-bert and more.
set -euo pipefail

# shellcheck source=scripts/preamble.sh
source "$(dirname "${BASH_SOURCE[0]}")/preamble.sh"
PYTHON="$(bash "$ROOT/scripts/setup_env.sh" --print-python)"

exec "$PYTHON" "$ROOT/utils/test_inference.py" --compare --report \
    --project_dir "${PROJECT:-.}" \
    ${WORK_DIR:+--work_dir "$WORK_DIR"} \
    --data_path "$DATASET_DIR" \
    --splits_dir "$OUTPUT_DIR" \
    "$@"
