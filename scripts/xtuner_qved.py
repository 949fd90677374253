"""The training as a config of xtuner.

    source .venv-xtuner/bin/activate
    xtuner train scripts/xtuner_qved.py --deepspeed scripts/zero2.json --work-dir work_dirs/coach

`training_args` takes every flag of unify_internvl2_train_r16.py by its name, see --help there; what is left out comes
from the model's recipe. On the command line: --cfg-options training_args.lr=2e-5. docs/xtuner.md has more.
"""
# ruff: noqa: C408 (xtuner's configs are written with `dict()`)

from formcoach.training.xtuner_engine import Training, run_arguments, trainable_model, training_samples

framework = "huggingface"

training_args = dict(
    type=run_arguments,
    output_dir="work_dirs/qevd_fit_300k_internvideo2_5_r16",
    datasets="data/diy_ft_data.json",
    freeze_vit=True,
)

model = dict(type=trainable_model)  # base, quantisation and LoRA as training_args say

train_dataset = dict(type=training_samples)  # and, from data/diy_ft_data_val.json, the validation samples

trainer = Training  # CoachTrainer with its collator, checkpoints and closing report
