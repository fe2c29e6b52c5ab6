"""Which model a page belongs to: the part of a fingerprint that no tensor shape shows.

Any doubt must end in a miss. So weights count as the same only if they are the same files: the same
place, size and time of change, or the same content-named blob of a model hub's cache.
"""

import dataclasses
import hashlib
import json
import logging
import os
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
FILES = (
    "quantization_param_path",
    "modelopt_checkpoint_restore_path",
    "rl_quant_profile",
    "kt_weight_path",
    "decrypted_config_file",
    "decrypted_draft_config_file",
    "dllm_algorithm_config",
)
"""Fields that name a local file or folder, all of which counts."""
CONFIG_NAMES = (
    "config.json",
    "params.json",
    "hf_quant_config.json",
    "quantize_config.json",
    "adapter_config.json",
    "added_tokens.json",
)
HUB_NAMES = (
    "config.json",
    "adapter_config.json",
    "model.safetensors.index.json",
    "model.safetensors",
    "adapter_model.safetensors",
)
"""One of these is in a hub's snapshot, or what was downloaded of it."""
UNSEEN_FORMATS = ("remote", "remote_instance", "private")
"""Load formats whose weights come from elsewhere than the model's path."""


def model_identity(source: ModelSource) -> str:
    """Return a short name of the weights that is equal only for equal weights.

    The base name is for people; the digest behind it decides. Cost: one `stat` per weight file and
    the reading of the small configuration files. Weights that cannot be located get an identity of
    this process alone, so that nothing of theirs is found after a restart.

    Adapters that a server starts with are part of its model. One that is loaded later needs no
    entry: SGLang gives it a random id, which goes into the hashes of its pages.
    """
    facts: dict[str, object] = dict(dataclasses.asdict(source))
    for path_field, revision_field in PATHS.items():
        path, revision = getattr(source, path_field), getattr(source, revision_field)
        # In place of the path as spelled: what lies there.
        facts[path_field] = _weights(source, path, revision) if path else None
    facts["lora_paths"] = {
        # The name and the path as spelled are in SGLang's id, and so in the pages' hashes.
        f"{name}={path}": _weights(source, path)
        for name, path in json.loads(source.lora_paths or "{}").items()
    }
    facts["uno_lora_path"] = _weights(source, source.uno_lora_path) if source.uno_lora_path else ""
    facts["files"] = {name: _contents(getattr(source, name)) for name in FILES}
    facts["loader_files"] = [
        _contents(path) for path in _paths_in(source.model_loader_extra_config)
    ]
    if source.load_format in UNSEEN_FORMATS or source.weight_cache_mode not in ("", "off"):
        facts["model_path"] = _unknown(source.model_path)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    places = _places(source.model_path, source.revision, "") or [Path(source.model_path)]
    return f"{places[0].name or 'model'}-{digest[:32]}"


def _unknown(path: str) -> str:
    """Return a name that is never found again."""
    logger.warning(
        "cannot locate the weights, so their pages are of no use after a restart. model=%s", path
    )
    return uuid.uuid4().hex


def _weights(source: ModelSource, path: str, revision: str = "") -> object:
    places = _places(path, revision, source.download_dir)
    files = [file for place in places or () for file in _files(place)]
    weights = [file for file in files if file.suffix in WEIGHT_SUFFIXES]
    is_dummy = "dummy" in (source.load_format, source.speculative_draft_load_format)
    if places is None or not (weights or is_dummy):
        return _unknown(path)
    # Code that comes with a model is run with `--trust-remote-code`.
    texts = [file for file in files if file.name in CONFIG_NAMES or file.suffix == ".py"]
    return {
        "places": [str(place) for place in places],
        "files": _file_facts(weights),
        "config": [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in texts],
    }


def _contents(path: str) -> object:
    """Return what is known of a file, or of all files of a folder."""
    if not path:
        return None
    if not Path(path).exists():
        return _unknown(path)
    place = Path(path).resolve()
    return [str(place), _file_facts(_files(place))]


def _files(place: Path) -> list[Path]:
    return [f for f in sorted(place.rglob("*")) if f.is_file()] if place.is_dir() else [place]


def _paths_in(text: str) -> list[str]:
    """Return the values of a JSON object that name what exists here."""
    try:
        values = json.loads(text or "{}")
    except ValueError:
        return []
    values = values.values() if isinstance(values, dict) else ()
    return [value for value in values if isinstance(value, str) and Path(value).exists()]


def _places(path: str, revision: str, download_dir: str) -> list[Path] | None:
    """Return the file or folder of the weights, resolved; a hub's name by its local snapshots.

    With a folder to download to, weights go there, and the configuration where it always goes.
    None if one of the places is not known.
    """
    if Path(path).exists():
        return [Path(path).resolve()]
    if os.environ.get("SGLANG_USE_MODELSCOPE", "").lower() in ("1", "true"):
        # What another hub has under the same name.
        return None
    places = [
        _snapshot(path, revision, cache) for cache in dict.fromkeys((None, download_dir or None))
    ]
    return [place for place in places if place] if all(places) else None


def _snapshot(path: str, revision: str, cache_dir: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in HUB_NAMES:
        try:
            found = try_to_load_from_cache(path, name, cache_dir, revision=revision or None)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).absolute().parent
    return None


def _file_facts(files: Iterable[Path]) -> list[list[object]]:
    facts: list[list[object]] = []
    for file in files:
        real = file.resolve()
        stat = real.stat()
        # A hub's cache names blobs by their content and keeps the name when it fetches one again.
        changed: object = real.name if real.parent.name == "blobs" else stat.st_mtime_ns
        facts.append([file.name, stat.st_size, changed])
    return facts
