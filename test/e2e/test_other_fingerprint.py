"""Servers that differ in what decides a page's bytes share a directory and never a page."""

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from launches import ANSWER_TOKENS, HOST_TOKENS, SIZING, ask, ask_and_store, evict, tier_flags
from reference_answers import greedy_answer

from benchmark.models import TINY, random_llama
from benchmark.serving import CPU_FLAGS, Cached, has_gpu, server_environment


@pytest.fixture(scope="module")
def stored_prompt(launcher, model, directory):
    """A prompt that the shared launch hits on disk; it is asked of every other launch."""
    source = random.Random(__name__)
    prompt = [source.randrange(3, 400) for _ in range(1000)]
    server = launcher.serve(model, directory)
    ask_and_store(server, prompt)
    server.flush_cache()
    assert ask(server, prompt).cached == Cached(disk=960)
    return prompt


@pytest.fixture(scope="session")
def other_model():
    """The same shape and name, other weights."""
    return random_llama(dataclasses.replace(TINY, seed=TINY.seed + 1))


def test_other_weights_in_an_engine(launcher, directory, stored_prompt, other_model, tmp_path):
    """Also shows `sgl.Engine(kv_storage="lsm")` at work: what it stores itself, it hits."""
    launcher.stop()
    arguments = {
        **engine_arguments((*SIZING, *tier_flags(directory))),
        **({} if has_gpu() else engine_arguments(CPU_FLAGS)),
        "model_path": str(other_model),
        "enable_cache_report": True,
    }
    asked = {"engine": arguments, "prompt": stored_prompt, "num_pages": 15}
    question = tmp_path / "question.json"
    question.write_text(json.dumps({**asked, "num_tokens": ANSWER_TOKENS}))
    script = Path(__file__).with_name("engine_run.py")
    answer = tmp_path / "answer.json"
    subprocess.run([sys.executable, script, question, answer], env=server_environment(), check=True)
    cold, warm = json.loads(answer.read_text())

    assert cold["cached_tokens"] == 0
    assert warm["cached_tokens"] == warm["from_disk"] == 960
    assert cold["output_ids"] == warm["output_ids"]
    assert tuple(cold["output_ids"]) == greedy_answer(other_model, stored_prompt, ANSWER_TOKENS)


def test_other_page_size_from_a_yaml_file(
    launcher, model, directory, stored_prompt, new_prompt, check_answer, tmp_path
):
    """Also shows that a `--config` file will do, and writing on eviction, the default."""
    file = tmp_path / "server.yaml"
    file.write_text(
        f"kv-storage: lsm\nkv-storage-path: {directory}\nkv-storage-size: 512MiB\npage-size: 32\n"
        "kv-storage-config:\n  log:\n    io_mode: direct\n"
    )
    server = launcher.launch(model, *SIZING, "--config", str(file))
    cold = ask(server, stored_prompt)
    evict(server, new_prompt, num_tokens=2 * HOST_TOKENS, store=False)
    warm = ask(server, stored_prompt)

    assert cold.cached == Cached()
    assert warm.cached == Cached(disk=992)
    check_answer(cold, stored_prompt)
    check_answer(warm, stored_prompt)


def test_other_dtype(launcher, model, directory, stored_prompt):
    server = launcher.serve(model, directory, "--dtype", "bfloat16")
    cold = ask_and_store(server, stored_prompt)
    server.flush_cache()
    warm = ask(server, stored_prompt)

    assert cold.cached == Cached()
    assert warm.cached == Cached(disk=960)
    assert cold.output_ids == warm.output_ids


def test_other_weights_while_serving(
    launcher, model, directory, stored_prompt, other_model, check_answer
):
    """What was stored before `/update_weights_from_disk` is not found after it, nor the other way
    round; a restart on the first weights finds what was theirs."""
    server = launcher.serve(model, directory)
    server.post("/update_weights_from_disk", {"model_path": str(other_model)})
    cold = ask_and_store(server, stored_prompt)
    server.flush_cache()
    warm = ask(server, stored_prompt)
    launcher.stop()
    again = ask(launcher.serve(model, directory), stored_prompt)

    assert cold.cached == Cached()
    assert warm.cached == again.cached == Cached(disk=960)
    assert cold.output_ids == greedy_answer(other_model, stored_prompt, ANSWER_TOKENS)
    assert warm.output_ids == cold.output_ids
    check_answer(again, stored_prompt)


def engine_arguments(flags):
    """Turn flags with one value each into keyword arguments of `sgl.Engine`."""
    names = [flag.removeprefix("--").replace("-", "_") for flag in flags[::2]]
    values = [int(value) if value.isdigit() else value for value in flags[1::2]]
    return dict(zip(names, values, strict=True))
