"""SGLang with its plugins loaded, and stores for the adapter under test."""

import json
from pathlib import Path

import pytest
from sglang_lsm.config import MIB, IndexConfig, LogConfig
from sglang_lsm.store import Store
from sglang_pools import make_storage_config


@pytest.fixture(scope="session", autouse=True)
def plugins():
    """Load the plugins as every process of a server does."""
    from sglang.srt.plugins import load_plugins

    load_plugins()


@pytest.fixture
def settings(tmp_path):
    from sglang_lsm_patch.options import ModelSource, TierSettings

    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"layers": 3}')
    (model / "model.safetensors").write_bytes(bytes(100))
    return TierSettings(
        path=str(tmp_path / "tier"),
        quota_bytes=64 * MIB,
        min_free_bytes=0,
        log=LogConfig(segment_bytes=MIB),
        index=IndexConfig(),
        model=ModelSource(model_path=str(model)),
        write_policy="through",
    )


@pytest.fixture
def make_storage(settings):
    """Build an `LsmStorage` on a host pool; closes each at the end."""
    from sglang_lsm_patch.storage import LsmStorage

    opened = []

    def make(pool, *, of=settings, **changes):
        storage = LsmStorage(make_storage_config(of, **changes), {})
        opened.append(storage)
        storage.register_mem_pool_host(pool)
        return storage

    yield make
    for storage in opened:
        storage.close()


@pytest.fixture
def newer_store(settings):
    """Write this rank's store, then mark it as written by a later format; returns its files."""
    directory = Path(settings.path) / "tp0-pp0"

    def files():
        return {p: p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}

    Store.open(directory, settings.store_config()).close()
    facts = directory / "STORE"
    newer = {**json.loads(facts.read_text()), "format_version": 99}
    facts.write_text(json.dumps(newer))
    return files
