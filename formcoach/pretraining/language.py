"""The other stages of pretraining: from what the vision tower sees to words."""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from formcoach.data.collate import NO_LOSS, pad
from formcoach.data.demo_descriptions import ATTRIBUTES
from formcoach.pretraining.stages import ATTRIBUTE_BATCH, BATCH, ROWS, Pretraining, make_optimizer, report, take_step
from formcoach.pretraining.system import TinySystem
from formcoach.pretraining.tiny import REPEAT, initialise, some_words
from formcoach.pretraining.vision import Seen


class AttributeReader(nn.Module):
    """Reads off a clip's visual tokens what its description will say."""

    def __init__(self, slots: int, channels: int) -> None:
        super().__init__()
        self.slot = nn.Parameter(torch.randn(slots, channels))
        layer = nn.TransformerEncoderLayer(channels, 4, 2 * channels, 0.0, "gelu", batch_first=True, norm_first=True)
        self.mix = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.values = nn.Linear(channels, sum(ATTRIBUTES.values()))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of all values of all attributes: (clips, slots, channels) -> (clips, values)."""
        return self.values(self.mix(tokens + self.slot).mean(dim=1))


def read_attributes(system: TinySystem, seen: Seen, held_out: Seen, plan: Pretraining) -> None:
    """Second stage: the connector learns to pass on what matters."""
    torch.manual_seed(plan.seed + 2)
    initialise(system.connector)
    with torch.no_grad():
        _, slots, channels = system.connect({name: part[:1] for name, part in held_out.all().items()}).shape
    reader = AttributeReader(slots, channels)
    trained = [system.connector, reader]
    optimizer, schedule = make_optimizer(trained, plan.lr, plan.attribute_steps)
    begin = time.monotonic()
    for step in range(1, plan.attribute_steps + 1):
        chosen, features = seen.pick(ATTRIBUTE_BATCH)
        loss = _attribute_loss(reader(system.connect(features)), seen.attributes[chosen])
        take_step(loss, optimizer, schedule, trained)
        report("attributes", step, plan.attribute_steps, loss, begin)
    with torch.inference_mode():
        read = reader(system.connect(held_out.all())).split([*ATTRIBUTES.values()], dim=1)
        right = [(values.argmax(1) == held_out.attributes[:, i]).float().mean() for i, values in enumerate(read)]
    print("held-out people: " + ", ".join(f"{n} {r:.0%}" for n, r in zip(ATTRIBUTES, right, strict=True)) + " right")


def _attribute_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean cross entropy of all attributes: (clips, values), (clips, attributes) -> ()."""
    parts = logits.split([*ATTRIBUTES.values()], dim=1)
    return torch.stack([nn.functional.cross_entropy(part, truth[:, i]) for i, part in enumerate(parts)]).mean()


def repeat_words(system: TinySystem, plan: Pretraining) -> None:
    """Third stage: the language model learns its vocabulary by repeating random rows of words."""
    torch.manual_seed(plan.seed + 3)
    rng = np.random.default_rng((plan.seed, 3))
    model = system.model
    initialise(model.model.language_model)
    trained = [model.model.language_model, model.lm_head]
    optimizer, schedule = make_optimizer(trained, plan.lr, plan.word_steps)
    begin = time.monotonic()
    for step in range(1, plan.word_steps + 1):
        loss = _repeat_loss(system, rng, ROWS)
        take_step(loss, optimizer, schedule, trained)
        report("words", step, plan.word_steps, loss, begin)


def _repeat_loss(system: TinySystem, rng: np.random.Generator, rows: int) -> Tensor:
    """Return the mean loss of repeating some random rows of words."""
    model, processor = system.model, system.processor
    texts = []
    for _ in range(rows):
        words = some_words(rng)
        texts.append(_tokens(processor, processor.prompt(REPEAT + words, 0), words))
    ids, labels = _batch(texts, processor)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(inputs_embeds=model.get_input_embeddings()(ids)).last_hidden_state
        return _answer_loss(model, hidden, labels)


def learn_to_describe(system: TinySystem, seen: Seen, plan: Pretraining) -> None:
    """Fourth stage: connector and language model learn to describe what the vision tower sees.

    At the last token of the question a linear reader, thrown away later, asks for all attributes at once; without it
    the model is slow to find out that looking helps. Some rows of words are still repeated, lest they be forgotten.
    """
    torch.manual_seed(plan.seed + 4)
    rng = np.random.default_rng((plan.seed, 4))
    model, processor = system.model, system.processor
    reader = nn.Linear(model.config.text_config.hidden_size, sum(ATTRIBUTES.values()))
    trained = [system.connector, model.model.language_model, model.lm_head, reader]
    optimizer, schedule = make_optimizer(trained, plan.lr, plan.steps)
    prompts = [processor.prompt(sample.question, system.frames, sample.take.duration) for sample in seen.samples]
    texts = [_tokens(processor, p, s.description) for p, s in zip(prompts, seen.samples, strict=True)]
    begin = time.monotonic()
    for step in range(1, plan.steps + 1):
        chosen, features = seen.pick(BATCH)
        ids, labels = _batch([texts[i] for i in chosen], processor)
        with torch.autocast("cpu", torch.bfloat16):
            embedded = model.get_input_embeddings()(ids)
            here = (ids == model.config.image_token_id).unsqueeze(-1)
            embedded = embedded.masked_scatter(here, system.connect(features).to(embedded.dtype))
            hidden = model.model(inputs_embeds=embedded).last_hidden_state  # padding comes last: causality hides it
            words = _answer_loss(model, hidden, labels)
        asked = hidden[torch.arange(BATCH), (labels[:, 1:] != NO_LOSS).int().argmax(dim=1)]  # the question's last token
        loss = words + 0.3 * _attribute_loss(reader(asked.float()), seen.attributes[chosen])
        loss = loss + 0.1 * _repeat_loss(system, rng, ROWS // 4)
        take_step(loss, optimizer, schedule, trained)
        report("descriptions", step, plan.steps, words, begin)


def _batch(texts: list[tuple[Tensor, Tensor]], processor: Any) -> tuple[Tensor, Tensor]:
    """Return token ids and labels of some texts: B x ((L_i), (L_i)) -> (B, L), (B, L)."""
    ids, labels = zip(*texts, strict=True)
    return pad(ids, processor.tokenizer.pad_token_id), pad(labels, NO_LOSS)


def _answer_loss(model: Any, hidden: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of the answers' tokens: (B, L, channels), (B, L) -> ()."""
    targets = labels[:, 1:]  # (B, L - 1)
    answers = targets != NO_LOSS
    return nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][answers]).float(), targets[answers])


def _tokens(processor: Any, prompt: str, answer: str) -> tuple[Tensor, Tensor]:
    """Return token ids (L) and labels (L) of a prompt with its answer."""
    ids, labels = processor.with_answer(prompt, processor.tokenizer(prompt).input_ids, answer)
    return torch.tensor(ids), labels[0]
