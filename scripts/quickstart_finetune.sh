#!/usr/bin/env bash
# From a fresh clone to a fine-tuned coach: environment, data, check, training, evaluation. Run again, it repeats nothing.
#
#   bash scripts/quickstart_finetune.sh                              # the demo, if dataset/ is empty
#   bash scripts/quickstart_finetune.sh --family mobilevideogpt      # the same with the other kind of model
#   EPOCHS=5 bash scripts/quickstart_finetune.sh --quantization nf4  # settings and flags of scripts/finetune_qved.sh
#   bash scripts/quickstart_finetune.sh --skip-bad-clips             # leave out clips that cannot be read
#   bash scripts/quickstart_finetune.sh --fresh                      # train again, into the next free run directory
set -euo pipefail

# shellcheck source=scripts/preamble.sh
source "$(dirname "${BASH_SOURCE[0]}")/preamble.sh"
reuse=--reuse skip=() model=() frozen=yes flags=() # what concerns more than the training
while (($#)); do
    if [[ "$1" == --*=* ]]; then set -- "${1%%=*}" "${1#*=}" "${@:2}"; fi
    case "$1" in
        --fresh) reuse="" && shift && continue ;;
        --skip-bad-clips) skip=("$1") ;;
        --lora-vit | --lora_vit) frozen="" ;;
        --family | --model) model+=("$1" "${2:-}") ;;
        --work-dir | --work_dir) export WORK_DIR="${2:-}" ;;
        --dataset-dir) DATASET_DIR="${2:-}" ;;
        --output-dir) OUTPUT_DIR="${2:-}" ;;
    esac
    flags+=("$1") && shift
done
export DATASET_DIR OUTPUT_DIR
step() { printf '\n== %s ==\n' "$*"; }
step "1/5 environment"
PYTHON="$(bash "$ROOT/scripts/setup_env.sh" --print-python)"
bash "$ROOT/scripts/run_trainer.sh" --set-up-only ${flags[@]+"${flags[@]}"} # the trainer's own, with --engine, is made or asked for now

step "2/5 data"
if [[ -z "$(find -L "$DATASET_DIR" -mindepth 1 -maxdepth 1 ! -name README.md ! -name '.*' 2>/dev/null)" ]]; then
    echo "$DATASET_DIR is empty: making the demo dataset"
    "$PYTHON" "$ROOT/utils/make_demo_dataset.py" --dataset-dir "$DATASET_DIR"
fi
train="$OUTPUT_DIR/qevd_fit_300k_train.jsonl" stale=""
[[ -f "$train" && -f "$OUTPUT_DIR/qevd_fit_300k_test.jsonl" ]] || stale=yes
for labels in "$DATASET_DIR"/{ground_truth,manifest,fine_grained_labels{,_with_worker_ids}}.json "$OUTPUT_DIR/kept_clips.json"; do
    [[ ! "$labels" -nt "$train" ]] || stale=yes
done
if [[ "$stale" ]]; then bash "$ROOT/scripts/initialize_dataset.sh" --yes ${skip[@]+"${skip[@]}"}; else echo "$train is newer than the labels: kept"; fi

step "3/5 check"
bash "$ROOT/scripts/verify_qved_setup.sh" ${model[@]+"${model[@]}"}

step "4/5 training"
cache=() clips="$(wc -l <"$train")" free="$(df -Pm "$(dirname "$OUTPUT_DIR")" | awk 'NR == 2 { print $4 }')" # MB; a clip takes 1 or 5
if [[ "$frozen" && "$clips" -le 2000 && $((clips * 12)) -le "$free" ]]; then cache=(--feature-cache "$(dirname "$OUTPUT_DIR")/features"); fi
bash "$ROOT/scripts/finetune_qved.sh" ${reuse:+"$reuse"} ${cache[@]+"${cache[@]}"} ${flags[@]+"${flags[@]}"}
"$PYTHON" "$ROOT/utils/plot_training_stats.py" --project_dir "${PROJECT:-.}" ${WORK_DIR:+--work_dir "$WORK_DIR"} \
    | tail -n 1 | sed 's/^wrote/curves:/' || true # the evaluation does not need them

step "5/5 evaluation on held-out clips"
bash "$ROOT/scripts/run_inference.sh"

echo "Your own clips: put them and ground_truth.json into $DATASET_DIR in place of these (dataset/README.md), then run this again."
echo "Train again with other settings: EPOCHS=5 bash scripts/quickstart_finetune.sh${model[*]:+ ${model[*]}} --fresh"
