#!/usr/bin/env bash
# Fine-tune InternVideo2.5 (without a GPU: the packaged tiny model) with LoRA on the prepared clips.
#
#   EPOCHS=1 bash scripts/finetune_qved.sh --quantization nf4
#
# Settings, where they are to differ from the model's recipe: MODEL_NAME WORK_DIR EPOCHS LR VIT_LR CONNECTOR_LR
# MICRO_BATCH_SIZE GLOBAL_BATCH_SIZE MAX_LENGTH MIN_FRAMES MAX_FRAMES.
# NPROC_PER_NODE: processes, one a GPU. Several machines: NNODES NODE_RANK MASTER_ADDR MASTER_PORT (docs/multi_gpu.md).
# OUTPUT_DIR is where scripts/initialize_dataset.sh wrote its files (data/annotaions).
# Arguments are those of unify_internvl2_train_r16.py (see --help there) and override the settings above.
# DeepSpeed runs with scripts/zero2.json unless --deepspeed names another file or `none`; docs/multi_gpu.md compares them.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0; fi
PYTHON="$(bash "$ROOT/scripts/setup_env.sh" --print-python)"
PROJECT="$ROOT/"
if [[ "$PWD" == "$ROOT" ]]; then PROJECT=""; fi # in the project's folder messages need no long paths

OUTPUT_DIR="${OUTPUT_DIR:-${PROJECT}data/annotaions}"
registries="$(dirname "$OUTPUT_DIR")"
flags=(
    --datasets "$registries/diy_ft_data.json"
    --work-dir "${WORK_DIR:-${PROJECT}work_dirs/qevd_fit_300k_internvideo2_5_r16}"
    --freeze-vit
)
add() { if [[ -n "$2" ]]; then flags+=("$1" "$2"); fi; }
add --model "${MODEL_NAME:-}"
add --epochs "${EPOCHS:-}"
add --lr "${LR:-}"
add --vit_lr "${VIT_LR:-}"
add --connector_lr "${CONNECTOR_LR:-}"
add --mirco-batch-size "${MICRO_BATCH_SIZE:-}"
add --global-batch-size "${GLOBAL_BATCH_SIZE:-}"
add --max-length "${MAX_LENGTH:-}"
add --min_num_frames "${MIN_FRAMES:-}"
add --max_num_frames "${MAX_FRAMES:-}"

exec "$PYTHON" "$ROOT/unify_internvl2_train_r16.py" "${flags[@]}" "$@"
