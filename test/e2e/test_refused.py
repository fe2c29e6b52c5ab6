"""Bad input ends a real launch with one line before a model loads; `test/patch` has every case."""

import json

from launches import refusal, tier_flags
from sglang_lsm.config import MIB, LogConfig, StoreConfig
from sglang_lsm.store import Store


def test_unknown_setting_names_the_nearest(model, tmp_path):
    config = ("--kv-storage-config", '{"log": {"io_mod": "direct"}}')
    message = refusal(model, *tier_flags(tmp_path / "store"), *config)
    assert "'io_mode'" in message and "log.io_mod" in message
    assert not (tmp_path / "store").exists()


def test_store_of_a_newer_format_is_left_untouched(model, tmp_path):
    rank = tmp_path / "store" / "tp0-pp0"
    config = StoreConfig(quota_bytes=64 * MIB, log=LogConfig(segment_bytes=MIB))
    Store.open(rank, config).close()
    facts = rank / "STORE"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "format_version": 99}))

    def files():
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in tmp_path.rglob("*")
            if path.is_file()
        }

    before = files()
    message = refusal(model, *tier_flags(tmp_path / "store"))
    assert "newer version" in message and "format_version=99" in message
    assert files() == before
