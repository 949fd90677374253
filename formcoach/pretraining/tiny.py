"""What the tiny models have in common: sizes of the language model, the tokenizer, and how they are saved."""

import copy
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from formcoach.config import Recipe
from formcoach.data.convert import QUESTION
from formcoach.data.demo_descriptions import QUESTIONS, describe, sample_style
from formcoach.data.demo_motion import EXERCISES
from formcoach.data.demo_words import WORDS
from formcoach.files import replacing_folder, write_json
from formcoach.models import RECIPE_FILE

VOCABULARY = 1024
REPEAT = "Repeat these words.\n"
SYSTEM_MESSAGE = "You watch a person move."


def language_sizes(tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """Return the sizes of the language model, for a Llama's or a Qwen2's configuration."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def make_tokenizer(control_tokens: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on plain descriptions, prompts and ordinary words about bodies."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", *control_tokens]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_corpus(), trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=list(control_tokens),
        clean_up_tokenization_spaces=False,
    )


def _corpus() -> Iterator[str]:
    rng = np.random.default_rng(0)
    for number in range(600):
        exercise = EXERCISES[number % len(EXERCISES)]
        yield describe(exercise, sample_style(rng, exercise))
    for _ in range(600):
        yield some_words(rng)
    for number in range(60):
        yield from (*QUESTIONS, QUESTION, REPEAT, "system\n", "user\n", "assistant\n", SYSTEM_MESSAGE)
        yield f"The video lasts for {rng.uniform(0, 60):.2f} seconds, and 12 frames are uniformly sampled from it.\n"
        yield f"Frame{number}: "


def some_words(rng: np.random.Generator) -> str:
    """Return a random row of words."""
    return " ".join(rng.choice(WORDS, size=rng.integers(6, 20), replace=False))


def initialise(part: nn.Module) -> None:
    """Draw linear weights with variance 1 / inputs: the library's 0.02 suits thousands of channels, not 192."""
    for module in part.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)


def save(model: Any, processor: Any, recipe: Recipe, output: Path) -> None:
    """Write the model in bfloat16 with its processor and recipe."""
    with replacing_folder(output) as folder:
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / RECIPE_FILE, asdict(recipe))
