"""ZeRO-3: the model's weights are shared out among the processes before DeepSpeed starts."""

from typing import Any


def partition(model: Any, settings: Any) -> None:
    """Give each process its part of every weight, one weight after another.

    DeepSpeed would move the whole model to each GPU first, which is what ZeRO-3 is to avoid.

    Args:
        model: whole, with adapters, in every process; its weights are empty afterwards and put together where they are
            needed.
        settings: transformers' `HfTrainerDeepSpeedConfig`, without any ``auto`` left.
    """
    import deepspeed
    from deepspeed.utils import set_z3_leaf_modules

    if whole := model.get_base_model().gathered_whole:
        set_z3_leaf_modules(model, list(whole))
    for parameter in model.parameters():
        if parameter.is_floating_point():  # the engine computes in one number format; it keeps trained weights in fp32
            parameter.data = parameter.data.to(settings.dtype())
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)  # so that it counts the processes
    deepspeed.zero.Init(module=model, config_dict_or_path=settings.config)
