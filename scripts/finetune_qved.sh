#!/usr/bin/env bash
# Fine-tune a model with LoRA on the prepared clips: InternVideo2.5, or what --model names (without a GPU: `tiny`).
#
#   EPOCHS=1 bash scripts/finetune_qved.sh --quantization nf4
#   bash scripts/finetune_qved.sh --model Amshaker/Mobile-VideoGPT-0.5B
#
# Settings, where they are to differ from the model's recipe: MODEL_NAME WORK_DIR EPOCHS LR VIT_LR CONNECTOR_LR
# MICRO_BATCH_SIZE GLOBAL_BATCH_SIZE MAX_LENGTH MIN_FRAMES MAX_FRAMES.
# NPROC_PER_NODE: processes, one a GPU. Several machines: NNODES NODE_RANK MASTER_ADDR MASTER_PORT (docs/multi_gpu.md).
# DATASET_DIR and OUTPUT_DIR are where the clips are and where scripts/initialize_dataset.sh wrote its files.
# --engine xtuner: the same run started by xtuner (docs/xtuner.md); --yes makes its environment without a question.
# Other arguments are those of unify_internvl2_train_r16.py (see --help there) and override the settings above.
# DeepSpeed runs with scripts/zero2.json unless --deepspeed names another file or `none`; docs/multi_gpu.md compares them.
set -euo pipefail

# shellcheck source=scripts/preamble.sh
source "$(dirname "${BASH_SOURCE[0]}")/preamble.sh"

flags=(
    --project-dir "${PROJECT:-.}"
    --dataset-dir "$DATASET_DIR"
    --output-dir "$OUTPUT_DIR"
    --freeze-vit
)
add() { if [[ -n "$2" ]]; then flags+=("$1" "$2"); fi; }
add --model "${MODEL_NAME:-}"
add --work-dir "${WORK_DIR:-}"
add --epochs "${EPOCHS:-}"
add --lr "${LR:-}"
add --vit_lr "${VIT_LR:-}"
add --connector_lr "${CONNECTOR_LR:-}"
add --mirco-batch-size "${MICRO_BATCH_SIZE:-}"
add --global-batch-size "${GLOBAL_BATCH_SIZE:-}"
add --max-length "${MAX_LENGTH:-}"
add --min_num_frames "${MIN_FRAMES:-}"
add --max_num_frames "${MAX_FRAMES:-}"

exec bash "$ROOT/scripts/run_trainer.sh" "${flags[@]}" "$@"
