#!/usr/bin/env bash
# Fine-tune Mobile-VideoGPT with LoRA on dataset/qved_train.json (without a GPU: the packaged `tiny-mobile`).
#
#   EPOCHS=3 BATCH=2 GACC=8 bash scripts/finetune_mobilevideogpt.sh --feature-cache data/features
#
# Settings, where they are to differ from the model's recipe: MODEL_NAME WORK_DIR EPOCHS LR MM_PROJ_LR LORA_R LORA_ALPHA
# MAXLEN BATCH GACC. BATCH clips are in a forward pass, GACC of them make a step in each process (4 where only one is set).
# Everything else is as for scripts/finetune_qved.sh: NPROC_PER_NODE, NNODES ..., DATASET_DIR, and arguments, which
# override the settings above.
set -euo pipefail

# shellcheck source=scripts/preamble.sh
source "$(dirname "${BASH_SOURCE[0]}")/preamble.sh"

flags=(--family mobilevideogpt)
add() { if [[ -n "$2" ]]; then flags+=("$1" "$2"); fi; }
add --connector_lr "${MM_PROJ_LR:-}"
add --lora-rank "${LORA_R:-}"
add --lora-alpha "${LORA_ALPHA:-}"
add --max-length "${MAXLEN:-}"
if [[ -n "${BATCH:-}" || -n "${GACC:-}" ]]; then
    for number in "${BATCH:=4}" "${GACC:=4}" "${NPROC_PER_NODE:=1}" "${NNODES:=1}"; do
        if [[ ! "$number" =~ ^[1-9][0-9]{0,5}$ ]]; then
            echo "error: BATCH, GACC, NPROC_PER_NODE and NNODES are whole numbers from 1 up, not $number" >&2
            exit 2
        fi
    done
    flags+=(--mirco-batch-size "$BATCH" --global-batch-size "$((BATCH * GACC * NPROC_PER_NODE * NNODES))")
fi
exec bash "$ROOT/scripts/finetune_qved.sh" "${flags[@]}" "$@"
