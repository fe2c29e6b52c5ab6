"""The real parsing of SGLang with the plugin loaded: flags, YAML, `Engine` arguments, refusals."""

import json

import pytest
from sglang_lsm.errors import ConfigError, FormatVersionError
from sglang_lsm.store import Store

from sglang_lsm_patch import launch


@pytest.fixture
def tier(tmp_path):
    return tmp_path / "tier"


@pytest.fixture
def parse(tmp_path, tier):
    """Parse a command line as `launch_server` does; a small tier unless told otherwise."""
    from sglang.srt.server_args import prepare_server_args

    def run(*flags, path=tier, size="64MiB"):
        return prepare_server_args(
            ["--model-path", str(tmp_path), "--device", "cpu", "--kv-storage", "lsm"]
            + (["--kv-storage-path", str(path)] if path else [])
            + (["--kv-storage-size", size] if size else [])
            + [str(flag) for flag in flags]
        )

    return run


def settings_of(args):
    return json.loads(args.hicache_storage_backend_extra_config)["kv_storage"]


def test_without_the_flag_nothing_changes(tmp_path):
    from sglang.srt.server_args import ServerArgs, prepare_server_args

    args = prepare_server_args(["--model-path", str(tmp_path)])
    assert args == ServerArgs(model_path=str(tmp_path))


def test_the_flag_resolves_to_stock_fields(parse, tier, tmp_path):
    args = parse()
    assert args.enable_hierarchical_cache is True
    assert args.hicache_storage_backend == "dynamic"
    assert args.radix_cache_backend == "lsm"
    assert args.page_size == 64
    assert (args.hicache_mem_layout, args.hicache_io_backend) == ("page_first_direct", "direct")
    assert settings_of(args)["path"] == str(tier)
    assert settings_of(args)["quota_bytes"] == 64 << 20
    assert settings_of(args)["model"]["model_path"] == str(tmp_path)


def test_a_value_equal_to_the_default_wins_when_it_was_written_down(parse):
    args = parse("--hicache-mem-layout", "page_first", "--hicache-io-backend=kernel")
    assert (args.hicache_mem_layout, args.hicache_io_backend) == ("page_first", "kernel")
    args = parse("--hicache-io-backend", "kernel")
    assert (args.hicache_mem_layout, args.hicache_io_backend) == ("page_first_direct", "kernel")


def test_what_the_operator_chose_is_kept(parse):
    args = parse(
        "--page-size", 16, "--hicache-storage-prefetch-policy", "wait_complete",
        "--tp-size", 2,
    )  # fmt: skip
    assert args.page_size == 16
    assert args.hicache_storage_prefetch_policy == "wait_complete"
    assert settings_of(args)["quota_bytes"] == 32 << 20


def test_a_yaml_file_will_do(tmp_path, tier):
    from sglang.srt.server_args import prepare_server_args

    file = tmp_path / "server.yaml"
    file.write_text(
        f"model-path: {tmp_path}\ndevice: cpu\nkv-storage: lsm\nkv-storage-path: {tier}\n"
        "kv-storage-size: 64MiB\nkv-storage-config:\n  log:\n    reader_threads: 3\n"
        "hicache-mem-layout: page_first\n"
    )
    args = prepare_server_args(["--config", str(file)])
    assert args.radix_cache_backend == "lsm"
    assert args.hicache_mem_layout == "page_first"
    assert settings_of(args)["log"]["reader_threads"] == 3


def test_the_help_names_the_flags(capsys):
    from sglang.srt.server_args import prepare_server_args

    with pytest.raises(SystemExit):
        prepare_server_args(["--help"])
    text = capsys.readouterr().out
    for flag in ("--kv-storage {lsm}", "--kv-storage-path DIR", "--kv-storage-size SIZE"):
        assert flag in text
    assert "30%" in text and "%%" not in text[text.index("disk tier") :]


def test_a_namespace_of_another_parser_counts_only_what_differs(tmp_path, tier):
    import argparse

    asked = {"kv_storage": "lsm", "kv_storage_path": str(tier), "kv_storage_size": "64MiB"}
    fields = {
        "model_path": str(tmp_path), "device": "cpu",
        "hicache_mem_layout": "page_first", "hicache_io_backend": "kernel_ascend",
    }  # fmt: skip
    result = launch.from_namespace(argparse.Namespace(**asked, **fields))
    assert result.hicache_mem_layout == "page_first_direct"
    assert result.hicache_io_backend == "kernel_ascend"
    assert not hasattr(result, "kv_storage")


REFUSALS = [
    (["--disable-radix-cache"], {}, "--disable-radix-cache"),
    (["--hicache-storage-backend", "file"], {}, "--hicache-storage-backend file"),
    (["--enable-lmcache"], {}, "--enable-lmcache"),
    (["--enable-unified-cache-external-linker"], {}, "--enable-unified-cache-external-linker"),
    (["--radix-cache-backend", "flexkv"], {}, "--radix-cache-backend flexkv"),
    (["--kv-storage-config", "{"], {}, "not valid JSON"),
    (["--kv-storage-config", '{"lgo": {}}'], {}, "nearest valid one is 'log'"),
    ([], {"size": "0"}, "larger than zero"),
    ([], {"size": "900000TB"}, "larger than the disk"),
    ([], {"size": "120%"}, "at most 100%"),
    ([], {"size": "lots"}, "not a size"),
    ([], {"size": "2MiB"}, "at least 4 segments"),
    (["--kv-storage-size=-5GB"], {"size": None}, "larger than zero"),
    ([], {"path": "/proc/nowhere"}, "cannot write to --kv-storage-path"),
]


@pytest.mark.parametrize(("flags", "where", "message"), REFUSALS)
def test_a_refusal_is_one_message_and_exit_code_2(parse, capsys, flags, where, message):
    with pytest.raises(SystemExit) as exit_:
        parse(*flags, **where)
    assert exit_.value.code == 2
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1


def test_an_unknown_backend_is_refused(tmp_path, capsys):
    from sglang.srt.server_args import prepare_server_args

    with pytest.raises(SystemExit) as exit_:
        prepare_server_args(["--model-path", str(tmp_path), "--kv-storage", "rocks"])
    assert exit_.value.code == 2 and "choose from" in capsys.readouterr().err


def test_a_second_server_on_the_directory_is_refused(parse, tier, settings, capsys):
    store = Store.open(tier / "tp0-pp0", settings.store_config())
    with pytest.raises(SystemExit):
        parse()
    assert str(tier) in capsys.readouterr().err
    store.close()
    assert parse().radix_cache_backend == "lsm"


def test_the_check_leaves_the_store_for_the_server(parse, tier, settings):
    Store.open(tier / "tp0-pp0", settings.store_config()).close()
    parse()
    Store.open(tier / "tp0-pp0", settings.store_config()).close()


def test_a_newer_store_is_refused_and_left_untouched(parse, newer_store, capsys):
    before = newer_store()
    with pytest.raises(SystemExit):
        parse()
    assert "newer" in capsys.readouterr().err
    assert newer_store() == before


def test_another_sglang_is_refused(parse, monkeypatch, capsys):
    monkeypatch.setattr("sglang_lsm_patch.compat.installed_version", lambda: "0.5.99")
    with pytest.raises(SystemExit):
        parse()
    assert "sglang=0.5.99" in capsys.readouterr().err


def engine_arguments(tier, **more):
    return {"model_path": "m", "device": "cpu", "kv_storage": "lsm", "kv_storage_size": 64 << 20,
            "kv_storage_path": tier, **more}  # fmt: skip


def test_engine_arguments_resolve_to_stock_fields(tier):
    result = launch.from_engine_arguments(
        engine_arguments(tier, kv_storage_config={"min_free": "1%"}, hicache_io_backend="kernel")
    )
    assert result["radix_cache_backend"] == "lsm" and result["page_size"] == 64
    assert result["hicache_io_backend"] == "kernel"
    assert not any(name.startswith("kv_storage") for name in result)


def test_engine_arguments_raise(tier, newer_store):
    with pytest.raises(ConfigError, match="--disable-radix-cache"):
        launch.from_engine_arguments(engine_arguments(tier, disable_radix_cache=True))
    newer_store()
    with pytest.raises(FormatVersionError):
        launch.from_engine_arguments(engine_arguments(tier))


def test_without_the_flag_engine_arguments_pass_through():
    assert launch.from_engine_arguments({"model_path": "m"}) == {"model_path": "m"}


def test_the_codec_reaches_the_store(parse):
    assert settings_of(parse())["log"]["codec"] == "off"
    settings = settings_of(parse("--kv-storage-codec", "idle"))
    assert settings["log"]["codec"] == "idle"
    assert settings["operator_set"] == "log.codec"
