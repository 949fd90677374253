"""The training loop: transformers' Trainer with three learning rates, a loss per answer token and whole checkpoints."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainingArguments

from formcoach.config import TrainingConfig
from formcoach.data.collate import NO_LOSS, TrainingCollator
from formcoach.files import replacing_folder
from formcoach.models.adapters import save_adapter
from formcoach.training import resumption, run_directory
from formcoach.training.answer_loss import token_losses
from formcoach.training.answer_rows import last_layer
from formcoach.training.batches import Batches, BatchOrder, ValidationOrder
from formcoach.training.callbacks import RunReport, peak_bytes
from formcoach.training.loss_guard import LossGuard
from formcoach.training.partitioning import partition
from formcoach.training.schedule import (
    CONNECTOR,
    LANGUAGE,
    VISION,
    LearningRates,
    parameter_groups,
    resume_schedule,
    scheduler,
)

RATE_NAMES = {LANGUAGE: "lr", CONNECTOR: "connector_lr", VISION: "vit_lr"}


class CoachTrainer(Trainer):
    """Trains a model of any family on clips.

    Args:
        model: with adapters.
        args: transformers' settings; they leave logging, validation and saving to `callbacks.Rhythm`.
        config: the run's settings.
        family: which modules are vision tower, connector and language model.
        processor: saved with each checkpoint.
        run: the run directory.
        report: is told what happens.
        batches: which samples make a step.
        train_dataset: a `ClipDataset`.
        val_lengths: tokens of each sample of `eval_dataset`.
        eval_dataset: another, or None.
        callbacks: transformers' callbacks.

    Attributes:
        waited: seconds that this process has waited for data.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        args: TrainingArguments,
        config: TrainingConfig,
        family: Any,
        processor: Any,
        run: Path,
        report: RunReport,
        batches: Batches,
        val_lengths: Sequence[int],
        train_dataset: Dataset,
        eval_dataset: Dataset | None,
        callbacks: list[Any],
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            data_collator=TrainingCollator(processor.tokenizer.pad_token_id, packed=config.dset_pack),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=callbacks,
        )
        self._config = config
        self._family = family
        self._last_layer = last_layer(model, family)
        self._processor = processor
        self._run = run
        self._report = report
        self._peaks = LearningRates(
            {LANGUAGE: config.lr, CONNECTOR: config.connector_lr, VISION: config.vit_lr},
            config.lr_min,
            config.warmup_ratio,
        )
        self._rates_now = dict.fromkeys(RATE_NAMES.values(), 0.0)  # 0: nothing is trained there
        self._batches = batches
        self._val_lengths = val_lengths
        self._tokens = 0  # since the last log, of this process
        self.waited = 0.0  # seconds for data, since the start
        self._waited_before = 0.0  # those up to the last log
        self._left_out = 0.0  # shares of steps' answer tokens that nothing was learned from, since the last log
        self._clock = time.monotonic()  # when the steps since the last log began
        self._last_step = 0
        self._guard = LossGuard(self.accelerator, report, skip=config.nan == "skip")
        self.loss_is_scaled_for_ga = True
        self._validated: tuple[int, float] | None = None  # step and loss of the newest validation

    # Optimizer and schedule

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Return torch's AdamW with a group for each learning rate."""
        if self.optimizer is None:
            decayed = self.get_decay_parameter_names(self.model)
            groups = parameter_groups(self.model, self._family, self._peaks, self.args.weight_decay, decayed)
            self.optimizer = AdamW(groups)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Return warm-up and cosine of each group, see `formcoach.training.schedule`."""
        self.lr_scheduler = scheduler(optimizer or self.optimizer, self._peaks, num_training_steps)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_learning_rate(self) -> float:
        """Note the rates of the step that was just taken; the parent asks before it moves the schedule on."""
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            self._rates_now[RATE_NAMES[group["part"]]] = rate
        return super()._get_learning_rate()

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Return this process's forward passes of the whole run; transformers takes it for a single epoch."""
        return self._loader(self.train_dataset, BatchOrder(self._batches, self.args.process_index))

    def _loader(self, samples: Dataset, order: Sampler) -> DataLoader:
        """Return what reads ahead."""
        workers = self.args.dataloader_num_workers
        return DataLoader(
            samples,
            batch_sampler=order,
            collate_fn=self.data_collator,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Return the batches of an optimizer step and how many answer tokens it has in all processes."""
        began = time.monotonic()
        batches = list(itertools.islice(epoch_iterator, num_batches))
        self.waited += time.monotonic() - began
        answers = sum(int((batch["labels"] != NO_LOSS).sum()) for batch in batches)
        return batches, self.accelerator.reduce(torch.tensor(answers, device=device), "sum")

    def _prepare_input(self, data: Any) -> Any:
        """Copy pinned memory to the GPU while that computes; the parent would wait."""
        if isinstance(data, Tensor) and self.args.dataloader_pin_memory:
            data = data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: the parent would count all parameters in each step, for a figure that is not shown."""
        return 0

    # Loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Return the sum over the micro batch's answer tokens, divided by those of the whole global batch.

        Raises:
            UserError: it is not finite; nothing was learned from it.
        """
        ids = inputs.pop("ids")
        self._tokens += sum(inputs["lengths"])
        losses, answers = token_losses(model, inputs, self._last_layer)
        # Gradients are averaged over processes, and each has its share of the answer tokens only.
        loss = losses.sum() * (self.args.world_size / num_items_in_batch)
        learned = self._guard.watch(loss, ids, model)
        if learned is not loss:
            self._left_out += (answers.sum() / num_items_in_batch).item()
        if self.accelerator.sync_gradients:
            self._guard.check_losses(self.state.global_step + 1)
        return learned

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        """Return the norm of the gradients before they are cut.

        Raises:
            UserError: it is not finite. In float16 it may be: the loss is scaled less from then on.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self._config.dtype != "float16":
            self._guard.check_gradients(norm, self.state.global_step + 1)
        self._guard.next_step()
        return norm

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the validation loss: the mean over all answer tokens of all samples.

        Raises:
            UserError: it is not finite for some samples, and those are not to be left out.
        """
        self.model.eval()
        order = ValidationOrder(self._val_lengths, self._batches.settings, self.args.process_index)
        total = torch.zeros(2, dtype=torch.float64)
        odd: list[str] = []
        for inputs in self._loader(self.eval_dataset, order):
            ids = inputs.pop("ids")
            with torch.no_grad(), self.compute_loss_context_manager():
                losses, answers = token_losses(self.model, self._prepare_inputs(inputs), self._last_layer)
            sums = torch.stack([losses.sum(dtype=torch.float64), answers.sum(dtype=torch.float64)]).cpu()
            if torch.isfinite(sums[0]):
                total += sums
            else:
                odd += ids
        self._guard.check_validation(odd, self.state.global_step)
        total = self.accelerator.reduce(total.to(self.args.device), "sum").cpu()
        loss = (total[0] / total[1]).item()
        step = self.state.global_step
        self._validated = (step, loss)
        self._report.validation(step, round(self._batches.epoch(step), 4), loss)
        self._clock = time.monotonic()
        metrics = {"eval_loss": loss}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # Log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report a logged step; the parent's summary at the end is left to the closing report."""
        if "loss" not in logs:
            return
        step = self.state.global_step
        seconds = time.monotonic() - self._clock
        counts = [self._tokens, self.waited - self._waited_before, self._left_out]
        sums = torch.tensor(counts, dtype=torch.float64, device=self.args.device)
        tokens, waited, left_out = self.accelerator.reduce(sums, "sum").tolist()
        steps = step - self._last_step
        samples = self._batches.samples_until(step) - self._batches.samples_until(self._last_step)
        record = {
            "step": step,
            "epoch": round(self._batches.epoch(step), 4),
            "loss": logs["loss"] * steps / max(steps - left_out, 1e-9),  # the mean over what was learned from
            **self._rates_now,
            "grad_norm": logs["grad_norm"],
            "tokens_per_second": round(tokens / seconds, 1),
            "samples_per_second": round(samples / seconds, 3),
            "seconds": round(seconds / steps, 4),
            "data_wait": round(waited / self.args.world_size / seconds, 4),
            "memory_gb": round(peak_bytes() / 1e9, 3),
        }
        self._report.step(record, self.state.max_steps)
        self._tokens, self._waited_before, self._left_out = 0, self.waited, 0.0
        self._last_step, self._clock = step, time.monotonic()

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint's folder whole or not at all, and note whether it is the best so far."""
        step = self.state.global_step
        is_best = self._validated is not None and self._validated[0] == step and self._is_best(self._validated[1])
        if is_best:
            self.state.best_global_step, self.state.best_metric = self._validated
        resumable = not self._config.checkpoint_drop_optimizer
        states = self._states().read(moments=resumable)
        randoms = self._random_states()
        if self.args.should_save:
            with replacing_folder(self._run / self._name(step)) as folder:
                save_adapter(self.model, self._processor, folder, resumption.values(states))
                if resumable:
                    self._write_resumption(folder / resumption.FOLDER, states, randoms)
            if is_best:
                run_directory.write_best(self._run, self._name(step), self.state.best_metric)
            run_directory.remove_old_checkpoints(self._run, self._config.max_keep_ckpts, self.state.best_global_step)
        self.accelerator.wait_for_everyone()
        self._clock = time.monotonic()

    def _name(self, step: int | None) -> str:
        """Return the name of a checkpoint's folder."""
        return f"{self._family.runs.checkpoint}{step}"

    def _is_best(self, loss: float) -> bool:
        return math.isfinite(loss) and (self.state.best_metric is None or loss < self.state.best_metric)

    def _random_states(self) -> list[Any]:
        """Gather the random states of all processes."""
        randoms = [resumption.random_state()] * self.args.world_size
        if self.args.world_size > 1:
            torch.distributed.all_gather_object(randoms, randoms[0])
        return randoms

    def _write_resumption(self, folder: Path, states: dict[str, Tensor], randoms: list[Any]) -> None:
        folder.mkdir()
        resumption.save_optimizer(states, folder)
        schedule = {"scheduler": self.lr_scheduler.state_dict(), "scaler": self._scaler_state()}
        resumption.save_progress(folder, schedule, randoms)
        self.state.save_to_json(str(folder / run_directory.STATE))

    def _states(self) -> resumption.States:
        if not self.is_deepspeed_enabled:
            return resumption.PlainStates(self.model, self.optimizer.optimizer)
        kind = resumption.PartitionedStates if self._partitions else resumption.ShardedStates
        return kind(self.model, self.deepspeed.optimizer)

    @property
    def _partitions(self) -> bool:
        """Tell whether weights are shared out too: ZeRO-3."""
        return self.is_deepspeed_enabled and self.args.hf_deepspeed_config.is_zero3()

    # Resumption

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """Prepare model and optimizer, then restore their state; the parent would look for pickles."""
        if self._partitions:
            self.args.hf_deepspeed_config.trainer_config_finalize(self.args, self.model, max_steps)
            partition(self.model, self.args.hf_deepspeed_config)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            folder = Path(resume_from_checkpoint)
            resumption.load_optimizer(self._states(), self.model, folder)
            schedule = resumption.load_schedule(folder)
            resume_schedule(self.lr_scheduler, schedule["scheduler"])
            self._set_scaler_state(schedule["scaler"])
            best = self._name(self.state.best_global_step)
            if not (self._run / best).is_dir():  # it is in another run directory
                self.state.best_global_step, self.state.best_metric = None, None
            elif self.args.should_save:  # the run may have been killed before it wrote this
                run_directory.write_best(self._run, best, self.state.best_metric)
        self._report.begin(self.state.global_step, max_steps)
        self._last_step, self._clock = self.state.global_step, time.monotonic()
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Leave the weights to `_prepare_for_training`: they are part of the optimizer's state, in full precision."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            resumption.load_random(Path(checkpoint), self.args.process_index)

    def _scaler_state(self) -> dict[str, Any]:
        """Return the state of fp16's loss scaling; empty in other precisions."""
        if self.is_deepspeed_enabled:
            return {
                name: value
                for name, value in vars(self.deepspeed.optimizer.loss_scaler).items()
                if isinstance(value, int | float | bool)
            }
        return self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {}

    def _set_scaler_state(self, state: dict[str, Any]) -> None:
        if self.is_deepspeed_enabled:
            vars(self.deepspeed.optimizer.loss_scaler).update(state)
        elif self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state)
