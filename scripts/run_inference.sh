#!/usr/bin/env bash
# The tuned model and its base on the held-out test split: predictions, scores, and a report.
#
#   bash scripts/run_inference.sh --model_path work_dirs/qevd_fit_300k_internvideo2_5_r16 --limit 20
#
# Without --model_path, or --hf_repo for a model on the hub: the newest run at WORK_DIR. DATASET_DIR and OUTPUT_DIR name
# clips and split files. NPROC_PER_NODE: processes, one a GPU. A run that was stopped goes on with the same command.
# Arguments are those of utils/test_inference.py (see --help there): --model_path | --hf_repo, --test_json, --data_path,
# --output_dir, --device, --max_new_tokens, --base_model, --limit, --batch_size, --no-bert and more.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0; fi
PYTHON="$(bash "$ROOT/scripts/setup_env.sh" --print-python)"
PROJECT="$ROOT/"
if [[ "$PWD" == "$ROOT" ]]; then PROJECT=""; fi # in the project's folder messages need no long paths

exec "$PYTHON" "$ROOT/utils/test_inference.py" --compare --report \
    --work_dir "${WORK_DIR:-${PROJECT}work_dirs/qevd_fit_300k_internvideo2_5_r16}" \
    --data_path "${DATASET_DIR:-${PROJECT}dataset}" \
    --test_json "${OUTPUT_DIR:-${PROJECT}data/annotaions}/qevd_fit_300k_test.jsonl" \
    "$@"
