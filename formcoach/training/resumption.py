"""What a checkpoint needs besides the adapter for exact resumption: optimizer, schedule and random states.

DeepSpeed and PyTorch would write pickles, and DeepSpeed's hold weights and fit one number of processes only. Here the
state of each trained parameter is gathered in full under the parameter's name: its fp32 value, Adam's two moments and
step. That is safetensors and JSON, the same for all of DeepSpeed's ZeRO stages and for plain PyTorch, so that a run can
go on with another stage or another number of processes.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from formcoach.errors import UserError
from formcoach.files import read_json, write_json
from formcoach.training.run_directory import RESUME

FOLDER = RESUME
OPTIMIZER, RANDOM, SCHEDULE = "optimizer.safetensors", "random.safetensors", "schedule.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
DAMAGED = "The checkpoint is damaged: resume from another one with --resume-from."


class PlainStates:
    """The states of the trained parameters in a PyTorch optimizer."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._parameters = dict(_trained(model))
        self._optimizer = optimizer

    def read(self, moments: bool) -> dict[str, Tensor]:
        """Return ``<parameter>/<what>`` -> tensor.

        Args:
            moments: what the optimizer needs too, not the values alone.
        """
        tensors = {}
        for name, parameter in self._parameters.items():
            tensors[f"{name}/value"] = parameter.data
            if moments:
                # What no loss depends on, as a layer behind the one that is used, has no gradient and no state.
                state = self._optimizer.state[parameter] or _untouched(parameter)
                tensors |= {f"{name}/{key}": state[key] for key in (*MOMENTS, "step")}
        return tensors

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Set the state of the parameter `name` to ``value``, the moments and ``step``."""
        parameter = self._parameters[name]
        parameter.data.copy_(tensors["value"])
        moments = {key: tensors[key].to(parameter.device) for key in MOMENTS}
        self._optimizer.state[parameter] = {"step": tensors["step"], **moments}

    def finish(self) -> None:
        """Nothing is left to do."""


class ShardedStates:
    """The states of the trained parameters in DeepSpeed's ZeRO-1 and ZeRO-2, where each process holds a part.

    All methods are collective: every process calls them, in the same order.

    Args:
        model: the module inside the engine.
        zero: the engine's `DeepSpeedZeroOptimizer`.
    """

    def __init__(self, model: nn.Module, zero: Any) -> None:
        self._parameters = dict(_trained(model))
        self._zero = zero
        self._flat = self._flat_tensors()

    def read(self, moments: bool) -> dict[str, Tensor]:
        """Return ``<parameter>/<what>`` -> tensor, gathered from all processes, in the first one; nothing in others."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        self._link()
        first = torch.distributed.get_rank() == 0
        tensors = {}
        for name, parameter in self._parameters.items():
            full = {"value": safe_get_full_fp32_param(parameter)}
            if moments:
                full |= {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
                full["step"] = self._zero.optimizer.state[self._flat[id(parameter)]]["step"].clone()
            if first:  # the others would only take memory
                tensors |= {f"{name}/{what}": tensor.cpu() for what, tensor in full.items()}
        return tensors

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Set this process's part of the state of the parameter `name`."""
        parameter = self._parameters[name]
        flat = self._flat[id(parameter)]
        if flat not in self._zero.optimizer.state:
            empty = {key: torch.zeros_like(flat) for key in MOMENTS}
            self._zero.optimizer.state[flat] = {"step": tensors["step"].clone(), **empty}
            self._link()
        self._set(parameter, tensors)

    def finish(self) -> None:
        """Give the weights that compute the values of the fp32 ones."""
        self._zero.update_lp_params()

    def _flat_tensors(self) -> dict[int, Tensor]:
        """Return the flat fp32 tensor that holds this process's part of each parameter, by the parameter's `id`.

        There is one for each group of parameters; the inner optimizer's state belongs to that.
        """
        groups = zip(self._zero.bit16_groups, self._zero.single_partition_of_fp32_groups, strict=True)
        return {id(parameter): flat for group, flat in groups for parameter in group}

    def _set(self, parameter: nn.Parameter, tensors: dict[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        safe_set_full_fp32_param(parameter, tensors["value"])
        for key in MOMENTS:
            safe_set_full_optimizer_state(parameter, tensors[key], key)

    def _link(self) -> None:
        """Let each parameter know its part of the flat moments.

        The engine does so itself in its first step, but for the first group of parameters only.
        """
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        for group, flat in zip(self._zero.bit16_groups, self._zero.single_partition_of_fp32_groups, strict=True):
            if flat in self._zero.optimizer.state:
                lazy_init_hp_params_optimizer_state(group, flat, self._zero.optimizer.state)


class PartitionedStates(ShardedStates):
    """The same in ZeRO-3, where each process holds a part of the weights that compute, too.

    `deepspeed.utils` can set a parameter only if the number of processes divides its size: the last part is padded.

    Args:
        model: the module inside the engine; its parameters are empty between forward passes.
        zero: the engine's `DeepSpeedZeroOptimizer_Stage3`.
    """

    def finish(self) -> None:
        """Give the weights that compute the values of the fp32 ones, as the engine does at the end of a step."""
        self._zero._partition_all_parameters()
        for group in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(group)
        self._zero._post_step([])

    def _flat_tensors(self) -> dict[int, Tensor]:
        flat = self._zero.fp32_partitioned_groups_flat
        return {id(parameter): flat[self._position(parameter)[0]] for parameter in self._parameters.values()}

    def _set(self, parameter: nn.Parameter, tensors: dict[str, Tensor]) -> None:
        flat = self._flat[id(parameter)]
        _, start, size = self._position(parameter)
        moments = self._zero.optimizer.state[flat]
        begin = size * parameter.ds_zero_partition_rank
        for part, full in ((flat.data, tensors["value"]), *((moments[key], tensors[key]) for key in MOMENTS)):
            mine = full.flatten()[begin : begin + size]
            part.narrow(0, start, len(mine)).copy_(mine)

    def _position(self, parameter: nn.Parameter) -> tuple[int, int, int]:
        """Return the group of a parameter, and where in its flat tensor the parameter begins and how long it is."""
        return self._zero.grad_position[self._zero.get_param_id(parameter)]

    def _link(self) -> None:
        """Parts are found by their positions here."""


States = PlainStates | ShardedStates


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _untouched(parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return Adam's state of a parameter before its first step."""
    return {key: torch.zeros_like(parameter) for key in MOMENTS} | {"step": torch.zeros(())}


def values(states: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the value of each trained parameter, of what `read` of the states returned."""
    return {name.removesuffix("/value"): tensor for name, tensor in states.items() if name.endswith("/value")}


def save_optimizer(states: dict[str, Tensor], folder: Path) -> None:
    """Write what `read` of the states returned."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in states.items()}, folder / OPTIMIZER)


def load_optimizer(states: States, model: nn.Module, folder: Path) -> None:
    """Restore the trained parameters and their optimizer state.

    Raises:
        UserError: the checkpoint is damaged or belongs to a model with other trained parameters.
    """
    names = [name for name, _ in _trained(model)]
    path = folder / OPTIMIZER
    if not path.is_file():
        raise UserError(f"{path}: no such file. {DAMAGED}")
    with safe_open(path, framework="pt") as tensors:
        stored = {key.rpartition("/")[0] for key in tensors.keys()}  # noqa: SIM118 (safe_open is no mapping)
        if stored != set(names):
            odd = sorted(stored.symmetric_difference(names))
            raise UserError(f"{path}: {len(odd)} trained parameters do not match this run's, e.g. {odd[0]}. {DAMAGED}")
        for name in names:
            states.write(name, {key: tensors.get_tensor(f"{name}/{key}") for key in ("value", *MOMENTS, "step")})
    states.finish()


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the states of all random generators of this process: as tensors, and as JSON values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, next_gauss = random.getstate()
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    values = {
        "python": [version, list(words), next_gauss],
        "numpy": [kind, keys.tolist(), position, has_gauss, gauss],
    }
    return tensors, values


def set_random_state(tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Restore what `random_state` returned."""
    version, words, next_gauss = values["python"]
    random.setstate((version, tuple(words), next_gauss))
    kind, keys, position, has_gauss, gauss = values["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors:
        with suppress(RuntimeError):  # resumed where there is no GPU
            torch.cuda.set_rng_state(tensors["cuda"])


def save_progress(
    folder: Path, schedule: dict[str, Any], randoms: Sequence[tuple[dict[str, Tensor], dict[str, Any]]]
) -> None:
    """Write the schedule's state and the random states of all processes, in the order of their ranks."""
    tensors = {f"{rank}/{name}": tensor for rank, (states, _) in enumerate(randoms) for name, tensor in states.items()}
    save_file(tensors, folder / RANDOM)
    write_json(folder / SCHEDULE, {"schedule": schedule, "random": [values for _, values in randoms]})


def load_schedule(folder: Path) -> dict[str, Any]:
    """Return what `save_progress` got as `schedule`.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_json(folder / SCHEDULE, DAMAGED)["schedule"]


def load_random(folder: Path, rank: int) -> None:
    """Restore the random generators of the process `rank`; a process that was not there before starts as seeded."""
    values = read_json(folder / SCHEDULE, DAMAGED)["random"]
    if rank >= len(values):
        return
    with safe_open(folder / RANDOM, framework="pt") as tensors:
        mine = {
            key.partition("/")[2]: tensors.get_tensor(key)
            for key in tensors.keys()  # noqa: SIM118 (safe_open is no mapping)
            if key.startswith(f"{rank}/")
        }
    set_random_state(mine, values[rank])
