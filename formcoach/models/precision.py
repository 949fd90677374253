"""In which number format, on which device and with which attention a model is loaded."""

import importlib.util
import logging
from dataclasses import dataclass
from typing import Any

from formcoach.config import ATTENTIONS
from formcoach.errors import UserError

# On import it warns about an optional faster kernel that would come from the hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

DTYPES = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS = ("nf4", "int8")

_FLASH_DTYPES = ("bfloat16", "float16")  # all that FlashAttention computes in


@dataclass(frozen=True)
class Precision:
    """How weights are held and attention is computed.

    Args:
        dtype: one of `DTYPES`; ``auto`` keeps the checkpoint's own type.
        quantization: one of `QUANTIZATIONS` for the language model's linear layers, or None. Vision tower, connector,
            embeddings and head always keep `dtype`.
        device: ``auto``, or a torch device such as ``cuda:0``; ``auto`` is CUDA, else Apple's MPS, else the CPU.
        attention: one of `ATTENTIONS`; ``auto`` is FlashAttention 2 on CUDA where `flash-attn` is installed and the
            model computes in half precision, else PyTorch's scaled dot product attention.

    Raises:
        UserError: if a name is unknown, or the quantiser is not installed.
    """

    dtype: str = "auto"
    quantization: str | None = None
    device: str = "auto"
    attention: str = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"dtype {self.dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
        if self.attention not in ATTENTIONS:
            raise UserError(f"attention {self.attention!r} is unknown; choose one of {', '.join(ATTENTIONS)}")
        if self.quantization is None:
            return
        if self.quantization not in QUANTIZATIONS:
            raise UserError(f"quantization {self.quantization!r} is unknown; choose one of {', '.join(QUANTIZATIONS)}")
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError(
                f"quantization {self.quantization} needs bitsandbytes: pip install 'bitsandbytes>=0.48', "
                "or leave --quantization out"
            )

    def loading_arguments(self, keep: tuple[str, ...], stored: str) -> dict[str, Any]:
        """Return the arguments of transformers' `from_pretrained`.

        Args:
            keep: names of modules that are not quantised.
            stored: the checkpoint's own type, one of `DTYPES`.

        Raises:
            UserError: the device or the attention asked for is not to be had here.
        """
        dtype, device = stored if self.dtype == "auto" else self.dtype, self.torch_device()
        attention = attention_used(self.attention, dtype, cuda=device.startswith("cuda"))
        arguments: dict[str, Any] = {
            "dtype": dtype,
            "device_map": {"": device},
            "attn_implementation": attention,
        }
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


def attention_used(asked: str, dtype: str, *, cuda: bool) -> str:
    """Return the attention as transformers names it.

    FlashAttention is only named where it is installed: transformers would fetch it from the hub otherwise.

    Args:
        asked: one of `ATTENTIONS`.
        dtype: torch's name for the format that the model computes in.
        cuda: whether it runs on a CUDA GPU.

    Raises:
        UserError: it is not to be had here.
    """
    from transformers.utils import is_flash_attn_2_available

    usable = cuda and dtype in _FLASH_DTYPES and is_flash_attn_2_available()
    if asked == "auto":
        return "flash_attention_2" if usable else "sdpa"
    if asked == "flash_attention_2" and not usable:
        raise UserError(
            "attention flash_attention_2 needs a CUDA GPU, bfloat16 or float16 and the package: "
            "pip install flash-attn --no-build-isolation, or use sdpa"
        )
    return asked
