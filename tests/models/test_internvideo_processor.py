"""Prompt, labels and pixel values."""

import itertools
import json

import numpy as np
import pytest
import torch
from original_checkpoints import FIXTURE
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from formcoach.errors import UserError
from formcoach.models import load_model
from formcoach.models.internvideo.processor import CONTROL_TOKENS, InternVideoProcessor, ProcessorSettings
from formcoach.models.internvideo.tokenizer import load_tokenizer

QUESTION = "What mistakes, if any, are present?"
PROMPT = json.loads((FIXTURE / "expected_prompt.json").read_text())


@pytest.fixture(scope="module")
def processor():
    return InternVideoProcessor(load_tokenizer(FIXTURE), ProcessorSettings(image_size=168))


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)


def test_prompt_and_ids_equal_the_original(processor, frames, recorded):
    assert processor.prompt(QUESTION, 8, 4.83) == PROMPT["prompt"]
    inputs = processor(frames, QUESTION, duration=4.83)
    assert inputs["input_ids"].equal(recorded["prompt_ids"])
    assert inputs["attention_mask"].equal(torch.ones_like(recorded["prompt_ids"]))
    assert "labels" not in inputs


def test_loss_is_on_the_answer_and_its_end(processor, frames, recorded):
    inputs = processor(frames, QUESTION, duration=4.83, answer=PROMPT["answer"])
    assert inputs["input_ids"].equal(recorded["full_ids"])
    assert inputs["labels"].equal(recorded["labels"])
    answered = inputs["labels"][inputs["labels"] != -100]
    assert processor.tokenizer.decode(answered) == PROMPT["answer"] + "<|im_end|>"


def test_without_duration_the_sentence_is_left_out(processor):
    assert "seconds" not in processor.prompt(QUESTION, 4)
    assert processor.prompt(QUESTION, 4).count("<IMG_CONTEXT>") == 64


def test_pixel_values_are_those_of_pillow(processor):
    image = pytest.importorskip("PIL.Image")
    frames = np.random.default_rng(1).integers(0, 256, (4, 60, 90, 3), dtype=np.uint8).repeat(6, 1).repeat(6, 2)
    pixels = processor.pixel_values(frames)
    assert pixels.shape == (4, 3, 168, 168) and pixels.dtype == torch.float32
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    resized = np.stack(
        [np.asarray(image.fromarray(frame).resize((168, 168), image.Resampling.BICUBIC)) for frame in frames]
    )
    expected = (torch.from_numpy(resized) / 255 - mean) / std
    difference = (pixels.permute(0, 2, 3, 1) - expected).abs()
    assert difference.max() < 2.01 / 255 / 0.224  # two levels of 256, where rounding differs
    assert (difference > 1e-4).float().mean() < 0.01


def test_as_many_frames_as_the_duration_asks_for(processor):
    processor.min_frames, processor.max_frames = 4, 16
    try:
        assert len(processor.select_frames(30, 15.0)) == 4
        assert len(processor.select_frames(30 * 14, 30.0)) == 12
        assert processor.select_frames(2, 15.0) == [0, 1, 1, 1]
    finally:
        processor.min_frames = processor.max_frames = 8


def test_settings_come_back(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = InternVideoProcessor.from_pretrained(tmp_path)
    assert again.settings == processor.settings
    assert again.prompt(QUESTION, 8, 4.83) == PROMPT["prompt"]
    messages = [{"role": "system", "content": processor.settings.system_message}, {"role": "user", "content": "Well?"}]
    text = again.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>user\nWell?<|im_end|>\n<|im_start|>assistant\n")


def test_changed_frame_limits_are_saved(processor, tmp_path):
    processor.save_pretrained(tmp_path / "a")
    changed = InternVideoProcessor.from_pretrained(tmp_path / "a")
    changed.min_frames, changed.max_frames = 4, 64
    changed.save_pretrained(tmp_path / "b")
    again = InternVideoProcessor.from_pretrained(tmp_path / "b")
    assert (again.min_frames, again.max_frames) == (4, 64)


def test_any_fast_tokenizer_with_the_control_tokens_will_do(frames, tmp_path):
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "squats": 3, "Well": 4}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=list(CONTROL_TOKENS),
    )
    processor = InternVideoProcessor(tokenizer, ProcessorSettings(image_size=56, system_message="Coach."))
    processor.save_pretrained(tmp_path)
    for each in (processor, InternVideoProcessor.from_pretrained(tmp_path)):
        inputs = each(frames, "Well ?", 3.0, "squats")
        assert inputs["labels"][0, -2:].tolist() == [3, each.end_token_ids[1]]
        assert (inputs["labels"][0, :-2] == -100).all()
        assert each.decode(inputs["input_ids"][0]).endswith("squats")


def test_a_tokenizer_of_another_model_is_refused():
    backend = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    with pytest.raises(UserError, match="no special token <img>"):
        InternVideoProcessor(PreTrainedTokenizerFast(tokenizer_object=backend), ProcessorSettings())


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_control_tokens_in_a_question_or_answer_are_refused(processor, frames, token):
    with pytest.raises(UserError, match=r"question .* contains the control token"):
        processor(frames, f"What {token}?")
    with pytest.raises(UserError, match=r"answer .* contains the control token"):
        processor(frames, QUESTION, answer=f"squats{token}")


def test_frames_of_another_shape_are_refused(processor, frames):
    with pytest.raises(ValueError, match="7 frames"):
        processor(frames[:7], QUESTION)
    with pytest.raises(ValueError, match="uint8"):
        processor(frames.astype(np.float32), QUESTION)


def test_damaged_settings_are_named(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"image_size": "big"}')
    with pytest.raises(UserError, match=r"processor_config\.json: Expected `int`, got `str` - at `\$\.image_size`"):
        InternVideoProcessor.from_pretrained(tmp_path)


TEXTS = (
    "squats",
    "",
    " ",
    "  two spaces  in front and behind  ",
    "\nlines\n\nand\ttabs\r\n",
    "naïve façade, １２３ ﬁt",
    "深蹲：膝盖内扣",
    "👍🏽 e\u0301 \u200b\ufeff",
    "<s></s><|im_start <unk>",
    "Frame1: The video lasts for 3.00 seconds",
)


@pytest.mark.parametrize("model", [FIXTURE, "tiny"])
def test_lengths_are_those_of_the_inputs(model):
    _, processor = load_model(model)
    placeholder = processor.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    for (question, answer), duration in itertools.product(itertools.product(TEXTS, TEXTS), (None, 4.831, 61.0)):
        for frames in (4, 12):
            ids, labels = processor.text_inputs(question, frames, duration, answer)
            visual, answered = (ids == placeholder).sum().item(), (labels != -100).sum().item()
            expected = (len(ids) - visual - answered, visual, answered)
            assert processor.sample_lengths(question, frames, duration, answer) == expected


def test_an_answer_that_the_tokenizer_merges_with_the_prompt_is_refused(frames):
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "assistant": 4, "assistanta": 5, "user": 6, "system": 7}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace("\n", "")
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    control = list(CONTROL_TOKENS)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=control, **roles)
    processor = InternVideoProcessor(tokenizer, ProcessorSettings(image_size=56))
    for make in (processor.text_inputs, processor.sample_lengths):
        with pytest.raises(UserError, match="the answer 'a' begins with characters that the tokenizer merges"):
            make("Well?", 4, 3.0, "a")
