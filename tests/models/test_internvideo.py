"""The model against what the original implementation returned, and what batches and training rely on."""

import pytest
import torch

from formcoach.data.collate import collate_prompts
from formcoach.models import load_model


def test_features_equal_the_original(fixture_model, recorded):
    model, _ = fixture_model
    with torch.no_grad():
        features = model.get_video_features(recorded["pixel_values"])
    assert features.shape == (2, 64, 64)
    torch.testing.assert_close(features.reshape(recorded["features"].shape), recorded["features"], atol=1e-4, rtol=0)


def test_logits_and_loss_equal_the_original(fixture_model, full_inputs, recorded):
    model, _ = fixture_model
    with torch.no_grad():
        output = model(**full_inputs, labels=recorded["labels"])
    torch.testing.assert_close(output.logits, recorded["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.loss, recorded["loss"][0], atol=1e-4, rtol=0)


def test_greedy_output_equals_the_original(fixture_model, recorded):
    model, _ = fixture_model
    prompt, expected = recorded["prompt_ids"], recorded["generated"]
    generated = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        pixel_values=recorded["pixel_values"],
        max_new_tokens=expected.shape[1],
    )
    assert generated[:, prompt.shape[1] :].equal(expected)


def test_each_clip_of_a_batch_gets_its_own_frames(fixture_model, full_inputs):
    model, _ = fixture_model
    other = full_inputs["pixel_values"].flip(0, 3)
    ids, mask = full_inputs["input_ids"], full_inputs["attention_mask"]
    with torch.no_grad():
        both = model(
            input_ids=torch.cat([ids, ids]),
            attention_mask=torch.cat([mask, mask]),
            pixel_values=torch.cat([full_inputs["pixel_values"], other]),
        ).logits
        second = model(input_ids=ids, attention_mask=mask, pixel_values=other).logits
        first = model(**full_inputs).logits
    torch.testing.assert_close(both, torch.cat([first, second]), atol=1e-5, rtol=0)
    assert (first - second).abs().max() > 1e-3


def test_a_left_padded_batch_answers_as_each_prompt_alone(fixture_model, recorded):
    model, processor = fixture_model
    questions = ["Well?", "What mistakes, if any, are present, and what corrections would you recommend?", "Why?"]
    pixels = [recorded["pixel_values"], recorded["pixel_values"][:4], recorded["pixel_values"].flip(0)]
    clips = []
    for question, pixel in zip(questions, pixels, strict=True):
        ids = torch.tensor([processor.tokenizer(processor.prompt(question, len(pixel))).input_ids])
        clips.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixel})
    assert len({clip["input_ids"].shape for clip in clips}) == 3

    def answers(clips):
        batch = collate_prompts(clips, pad_id=2)
        return model.generate(**batch, max_new_tokens=12)[:, batch["input_ids"].shape[1] :].tolist()

    assert answers(clips) == [answers([clip])[0] for clip in clips]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_loss_trains_all_parts(base_model, full_inputs, recorded, checkpointing):
    model, _ = base_model
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model(**full_inputs, labels=recorded["labels"], use_cache=False).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert model.model.vision_tower.embeddings.patch_embeddings.projection.weight.grad.abs().sum() > 0


def test_answers_end_at_either_end_token(fixture_model):
    model, processor = fixture_model
    assert model.generation_config.eos_token_id == processor.end_token_ids == [2, 564]
    assert model.generation_config.pad_token_id == 2


def test_frames_that_do_not_fill_a_group_are_refused(fixture_model, recorded):
    model, _ = fixture_model
    with pytest.raises(ValueError, match="6 frames"):
        model.get_video_features(recorded["pixel_values"][:6])


def test_a_saved_model_loads_again(base_model, full_inputs, tmp_path):
    model, processor = base_model
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, its_processor = load_model(tmp_path / "saved", device="cpu")
    with torch.no_grad():
        assert again(**full_inputs).logits.equal(model(**full_inputs).logits)
    assert its_processor.prompt("Well?", 8, 3.0) == processor.prompt("Well?", 8, 3.0)
    assert its_processor.settings == processor.settings
