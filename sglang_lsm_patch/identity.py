"""Which model a page belongs to: the part of a fingerprint that no tensor shape shows.

Any doubt must end in a miss. So weights count as the same only if they are the same files: the same
place, size and time of change, or the same content-named blob of a model hub's cache.
"""

import dataclasses
import hashlib
import json
import logging
import uuid
from collections.abc import Iterable
from pathlib import Path

from sglang_lsm_patch.options import ModelSource

logger = logging.getLogger(__name__)

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
PATHS = {
    "model_path": "revision",
    "speculative_draft_model_path": "speculative_draft_model_revision",
}
"""Fields of `ModelSource` that name weights, and those of their revisions."""
CONFIG_NAMES = ("config.json", "hf_quant_config.json", "quantize_config.json")


def model_identity(source: ModelSource) -> str:
    """Return a short name of the weights that is equal only for equal weights.

    The base name is for people; the digest behind it decides. Cost: one `stat` per weight file and
    the reading of the small configuration files. Weights that cannot be located get an identity of
    this process alone, so that nothing of theirs is found after a restart.
    """
    facts: dict[str, object] = dict(dataclasses.asdict(source))
    for path_field, revision_field in PATHS.items():
        path, revision = getattr(source, path_field), getattr(source, revision_field)
        # In place of the path as spelled: what lies there.
        facts[path_field] = _weights(path, revision) if path else None
    facts["kv_scales"] = _file_facts(_existing([Path(source.quantization_param_path)]))
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    place = _local_place(source.model_path, source.revision) or Path(source.model_path)
    return f"{place.name or 'model'}-{digest[:32]}"


def _weights(path: str, revision: str) -> object:
    place = _local_place(path, revision)
    if place is None:
        logger.warning(
            "cannot locate the weights, so their pages are of no use after a restart. model=%s",
            path,
        )
        return uuid.uuid4().hex
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    return {
        "place": str(place),
        "files": _file_facts(file for file in files if file.suffix in WEIGHT_SUFFIXES),
        "config": {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in _existing(place / name for name in CONFIG_NAMES)
        },
    }


def _local_place(path: str, revision: str) -> Path | None:
    """Return the file or folder of the weights, resolved; a hub's name by its local snapshot."""
    if Path(path).exists():
        return Path(path).resolve()
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(path, "config.json", revision=revision or None)
    except HFValidationError:
        return None
    return Path(config).absolute().parent if isinstance(config, str) else None


def _file_facts(files: Iterable[Path]) -> list[list[object]]:
    facts: list[list[object]] = []
    for file in files:
        real = file.resolve()
        stat = real.stat()
        # A hub's cache names blobs by their content and keeps the name when it fetches one again.
        changed: object = real.name if real.parent.name == "blobs" else stat.st_mtime_ns
        facts.append([file.name, stat.st_size, changed])
    return facts


def _existing(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if file.is_file()]
