#!/usr/bin/env bash
# From clips and labels to training files: checks every clip, splits by person, writes data/annotaions/*.jsonl,
# data/diy_ft_data*.json and dataset/qved_*.json. dataset/README.md says what the folder must hold.
#
#   bash scripts/initialize_dataset.sh
#   DATASET_DIR=~/clips OUTPUT_DIR=data/annotaions bash scripts/initialize_dataset.sh --ratios 70/15/15 --skip-bad-clips
#
# Arguments are those of utils/qved_from_fine_labels.py (see --help).
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0; fi
PYTHON="$(bash "$ROOT/scripts/setup_env.sh" --print-python)"
PROJECT="$ROOT/"
if [[ "$PWD" == "$ROOT" ]]; then PROJECT=""; fi # in the project's folder messages need no long paths

exec "$PYTHON" "$ROOT/utils/qved_from_fine_labels.py" \
  --dataset-dir "${DATASET_DIR:-${PROJECT}dataset}" \
  --output-dir "${OUTPUT_DIR:-${PROJECT}data/annotaions}" \
  "$@"
