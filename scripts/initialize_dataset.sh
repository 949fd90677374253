#!/usr/bin/env bash
# From nothing, or from clips and labels, to training files: gets the data, cleans, augments, splits so that nobody is in
# two splits, and shows what there is. Writes data/annotaions/*.jsonl, data/diy_ft_data*.json and dataset/qved_*.json.
# dataset/README.md says what the folder must hold.
#
#   bash scripts/initialize_dataset.sh                       # splits what is there; on a terminal it asks about the rest
#   bash scripts/initialize_dataset.sh --download --videos-per-class 20 --clean --report
#   bash scripts/initialize_dataset.sh --from-dir ~/QEVD-FIT-300k --answers all --augment 1
#   DATASET_DIR=~/clips OUTPUT_DIR=data/annotaions bash scripts/initialize_dataset.sh --ratios 70/15/15 --skip-bad-clips
#
# Arguments are those of utils/initialize_dataset.py and utils/qved_from_fine_labels.py (see --help of each).
set -euo pipefail

# shellcheck source=scripts/preamble.sh
source "$(dirname "${BASH_SOURCE[0]}")/preamble.sh"
PYTHON="$(bash "$ROOT/scripts/setup_env.sh" --print-python)"

exec "$PYTHON" "$ROOT/utils/initialize_dataset.py" \
  --dataset-dir "$DATASET_DIR" \
  --output-dir "$OUTPUT_DIR" \
  "$@"
