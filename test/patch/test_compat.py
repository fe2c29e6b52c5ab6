"""The start-up check sees a SGLang that differs from the one the hooks were written for."""

from pathlib import Path

import pytest
from sglang_lsm.errors import ConfigError

from sglang_lsm_patch import compat
from sglang_lsm_patch.versions import FIELDS, METHODS, TESTED_SGLANG

SOURCE = """
class Cache:
    size: int
    name: str = ""

    def prefetch(self, request, *, limit=1, **rest): ...

def build(a, /, b, *others): ...
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "cache.py").write_text(SOURCE)
    return tmp_path


def test_the_installed_sglang_is_the_tested_one():
    compat.require_compatible()
    assert compat.installed_version() in TESTED_SGLANG


def test_signatures_are_read_as_python_sees_them():
    """The recorded form of a symbol that can be imported cheaply equals `inspect`'s view of it."""
    import inspect

    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, HiCacheStorageConfig

    for name in ("batch_exists", "batch_get_v1", "batch_exists_v2", "register_mem_host_pool_v2"):
        recorded = METHODS[f"srt/mem_cache/hicache_storage.py:HiCacheStorage.{name}"]
        assert recorded == tuple(inspect.signature(getattr(HiCacheStorage, name)).parameters)
    fields = FIELDS["srt/mem_cache/hicache_storage.py:HiCacheStorageConfig"]
    assert fields == tuple(HiCacheStorageConfig.__dataclass_fields__)


def test_every_method_that_we_override_is_recorded():
    """Else an upgrade could change what a hook stands on, and the start-up check would pass."""
    import inspect

    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    from sglang_lsm_patch.radix_cache import LsmRadixCache
    from sglang_lsm_patch.storage import LsmStorage

    pairs = (
        (LsmRadixCache, UnifiedRadixCache, "srt/mem_cache/unified_radix_cache.py"),
        (LsmStorage, HiCacheStorage, "srt/mem_cache/hicache_storage.py"),
    )
    overridden = {
        f"{file}:{upstream.__name__}.{name}"
        for ours, upstream, file in pairs
        for name in vars(ours)
        if inspect.isfunction(getattr(upstream, name, None)) and not name.startswith("__")
    }
    assert len(overridden) > 20
    assert overridden - set(METHODS) == set()


def test_the_readme_names_every_recorded_symbol():
    text = (Path(compat.__file__).parent / "README.md").read_text(encoding="utf-8")
    names = [place.partition(":")[2].split(".")[-1] for place in (*METHODS, *FIELDS)]
    assert [name for name in names if f"{name}`" not in text] == []


def test_what_is_recorded_rightly_passes(root):
    methods = {
        "cache.py:Cache.prefetch": ("self", "request", "limit", "**rest"),
        "cache.py:build": ("a", "b", "*others"),
    }
    assert compat.changed_symbols(root, methods, {"cache.py:Cache": ("size", "name")}) == []


@pytest.mark.parametrize(
    "methods",
    [
        {"cache.py:Cache.prefetch": ("self", "request")},
        {"cache.py:Cache.prefetch": ("self", "limit", "request", "**rest")},
        {"cache.py:Cache.gone": ("self",)},
        {"cache.py:Gone.prefetch": ("self",)},
        {"gone.py:Cache.prefetch": ("self",)},
        {"cache.py:Cache": ("self",)},
    ],
)
def test_a_changed_symbol_is_named(root, methods):
    (clause,) = compat.changed_symbols(root, methods, {})
    assert next(iter(methods)).split(":")[1] in clause


def test_changed_fields_are_named(root):
    (clause,) = compat.changed_symbols(root, {}, {"cache.py:Cache": ("size",)})
    assert "found=('size', 'name')" in clause


def test_a_changed_symbol_is_refused(monkeypatch):
    monkeypatch.setattr(compat, "METHODS", {"version.py:gone": ()})
    with pytest.raises(ConfigError, match="differs from the release"):
        compat.require_compatible()


def test_an_untested_version_is_refused(monkeypatch):
    monkeypatch.setattr(compat, "installed_version", lambda: "0.5.24")
    with pytest.raises(ConfigError, match=r"tested: 0\.5\.23\. sglang=0\.5\.24"):
        compat.require_compatible()
