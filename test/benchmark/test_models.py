"""A model is made once, whole or not at all, and the same from the same shape."""

import dataclasses
import json

import pytest

from benchmark import models
from benchmark.models import TINY, ModelError, ModelShape, random_llama, random_windowed

SMALL = ModelShape(
    name="small",
    hidden_size=32,
    intermediate_size=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    max_positions=128,
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "CACHE", tmp_path / "models")
    return tmp_path / "models"


def weights(directory):
    return (directory / "model.safetensors").read_bytes()


def test_equal_shapes_give_equal_weights_and_another_seed_gives_others(
    cache, tmp_path, monkeypatch
):
    first = random_llama(SMALL)
    other = random_llama(dataclasses.replace(SMALL, seed=2))
    monkeypatch.setattr(models, "CACHE", tmp_path / "elsewhere")
    again = random_llama(SMALL)
    assert weights(first) == weights(again) != weights(other)
    assert first.name == again.name != other.name


def test_a_window_is_part_of_the_model(cache):
    four_layers = dataclasses.replace(SMALL, num_layers=4)
    made = random_windowed(four_layers, window=16)
    config = json.loads((made / "config.json").read_text())
    assert config["sliding_window"] == 16
    assert config["layer_types"] == ["sliding_attention"] * 3 + ["full_attention"]
    assert random_windowed(four_layers, window=32) != made != random_llama(four_layers)


def test_made_once(cache):
    made = random_llama(SMALL)
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert random_llama(SMALL) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before


def test_a_failure_leaves_nothing_behind(cache):
    def fail(out):
        (out / "half").write_text("written")
        raise ModelError("no")

    with pytest.raises(ModelError):
        models._made_once("broken", fail)
    assert list(cache.iterdir()) == []


def test_tokenizer_reads_back_what_it_was_given(cache):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_llama(SMALL))
    text = "Pages, segments; \u00fcber alles \U0001f600\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert max(ids) < TINY.vocab_size
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_file_with_another_digest_is_refused(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"other bytes")
    with pytest.raises(ModelError, match="not the expected file"):
        models._require_digest(file, "0" * 64)
