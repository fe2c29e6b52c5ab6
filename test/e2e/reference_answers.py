"""What a model answers without SGLang and without any cache: the truth that replies are held to."""

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def greedy_answer(model: Path, prompt: Sequence[int], num_tokens: int) -> tuple[int, ...]:
    """Return the continuation of `prompt` in float32, the end token taken as any other."""
    # As the servers under test, see launches.
    torch.set_num_threads(1)
    network = _network(model)
    answer: list[int] = []
    step, cache = torch.tensor([prompt]), None
    with torch.inference_mode():
        for _ in range(num_tokens):
            output = network(step, past_key_values=cache, use_cache=True)
            step, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
            answer.append(int(step))
    return tuple(answer)


@functools.cache
def _network(model: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
