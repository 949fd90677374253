"""In which number format, and on which device, a model is loaded."""

import importlib.util
import logging
from dataclasses import dataclass
from typing import Any

from formcoach.errors import UserError

# On import it warns about an optional faster kernel that would come from the hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

DTYPES = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS = ("nf4", "int8")


@dataclass(frozen=True)
class Precision:
    """How weights are held.

    Args:
        dtype: one of `DTYPES`; ``auto`` keeps the checkpoint's own type.
        quantization: one of `QUANTIZATIONS` for the language model's linear layers, or None. Vision tower, connector,
            embeddings and head always keep `dtype`.
        device: ``auto``, or a torch device such as ``cuda:0``; ``auto`` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        UserError: if a name is unknown, or the quantiser is not installed.
    """

    dtype: str = "auto"
    quantization: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"dtype {self.dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
        if self.quantization is None:
            return
        if self.quantization not in QUANTIZATIONS:
            raise UserError(f"quantization {self.quantization!r} is unknown; choose one of {', '.join(QUANTIZATIONS)}")
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError(
                f"quantization {self.quantization} needs bitsandbytes: pip install 'bitsandbytes>=0.48', "
                "or leave --quantization out"
            )

    def loading_arguments(self, keep: tuple[str, ...]) -> dict[str, Any]:
        """Return the arguments of transformers' `from_pretrained`.

        Args:
            keep: names of modules that are not quantised.
        """
        arguments: dict[str, Any] = {"dtype": self.dtype, "device_map": {"": self.torch_device()}}
        if self.quantization is not None:
            arguments["quantization_config"] = self._quantization_config(keep)
        return arguments

    def torch_device(self) -> str:
        """Return the device as torch names it.

        Raises:
            UserError: torch knows no such device, or sees no such GPU.
        """
        import torch

        if self.device == "auto":
            if torch.cuda.is_available():
                return "cuda:0"
            return "mps" if torch.backends.mps.is_available() else "cpu"
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise UserError(f"device {self.device!r} is unknown; use auto, cpu, cuda or cuda:0") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"device {self.device}: torch sees {torch.cuda.device_count()} GPUs; use auto or cpu")
        return self.device

    def _quantization_config(self, keep: tuple[str, ...]) -> Any:
        """Return the quantiser's settings: NF4 as in QLoRA (double quantisation, bfloat16 compute), or LLM.int8()."""
        import torch
        from transformers import BitsAndBytesConfig

        if self.quantization == "int8":
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(keep))
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=list(keep),
        )
