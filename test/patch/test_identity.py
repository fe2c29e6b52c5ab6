"""Equal identity means equal weights; any doubt gives another identity."""

import dataclasses
import json
import os
import shutil

import pytest

from sglang_lsm_patch.identity import FILES, model_identity
from sglang_lsm_patch.options import ModelSource


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model-1.safetensors").write_bytes(bytes(100))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def source(folder):
    return ModelSource(model_path=str(folder))


def touch(file):
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


CHANGES = {
    "config": lambda folder: (folder / "config.json").write_text('{"rope": 1}'),
    "size": lambda folder: (folder / "model-1.safetensors").write_bytes(bytes(101)),
    "written again": lambda folder: touch(folder / "model-1.safetensors"),
    "another file": lambda folder: (folder / "model-2.safetensors").write_bytes(b""),
    "renamed": lambda folder: (folder / "model-1.safetensors").rename(folder / "m.safetensors"),
    "quantized": lambda folder: (folder / "hf_quant_config.json").write_text("{}"),
    "other code": lambda folder: (folder / "modeling_own.py").write_text("scale = 2"),
}


def test_the_same_files_are_the_same_model(source, folder):
    before = model_identity(source)
    (folder / "tokenizer.json").write_text('{"other": 1}')
    (folder / "README.md").write_text("text")
    assert model_identity(source) == before
    assert before.startswith("model-")


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_another_model(source, folder, change):
    before = model_identity(source)
    CHANGES[change](folder)
    assert model_identity(source) != before


@pytest.mark.parametrize(
    "field",
    [f.name for f in dataclasses.fields(ModelSource) if f.name not in ("model_path", "lora_paths")],
)
def test_each_option_that_decides_the_kv_decides_the_identity(source, field):
    assert model_identity(dataclasses.replace(source, **{field: "x"})) != model_identity(source)


def test_a_copy_elsewhere_is_another_model(source, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy2)
    copied = ModelSource(model_path=str(tmp_path / "copy"))
    assert model_identity(copied) != model_identity(source)


def test_another_way_to_the_same_folder_is_the_same_model(source, folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert model_identity(ModelSource(model_path=str(tmp_path / "link"))) == model_identity(source)


@pytest.mark.parametrize("field", FILES)
def test_a_changed_file_beside_the_weights_is_another_model(source, tmp_path, field):
    file = tmp_path / "file"
    file.write_text("{}")
    given = dataclasses.replace(source, **{field: str(file)})
    before = model_identity(given)
    assert model_identity(given) == before
    touch(file)
    assert model_identity(given) != before


def test_changed_shards_that_the_loader_was_pointed_to_are_another_model(source, tmp_path):
    shard = tmp_path / "shards" / "0.safetensors"
    shard.parent.mkdir()
    shard.write_bytes(bytes(10))
    extra = json.dumps({"presharded_path": str(shard.parent), "max_file_bytes": 10})
    given = dataclasses.replace(source, model_loader_extra_config=extra)
    before = model_identity(given)
    assert model_identity(given) == before
    touch(shard)
    assert model_identity(given) != before


@pytest.fixture
def adapter(tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    (adapter / "adapter_model.safetensors").write_bytes(bytes(10))
    return adapter


ADAPTER_CHANGES = {
    "weights": lambda adapter: touch(adapter / "adapter_model.safetensors"),
    "config": lambda adapter: (adapter / "adapter_config.json").write_text('{"r": 9}'),
    "tokens": lambda adapter: (adapter / "added_tokens.json").write_text('{"<a>": 1}'),
}


@pytest.mark.parametrize("change", ADAPTER_CHANGES)
def test_an_adapter_replaced_in_place_is_not_the_adapter_of_before(source, adapter, change):
    """SGLang's id of an adapter is a digest of its name and path, and that alone is in the hashes
    of its pages: after a restart the old adapter's KV was found for the new one."""
    adapted = dataclasses.replace(source, lora_paths=json.dumps({"a": str(adapter)}))
    before = model_identity(adapted)
    assert model_identity(adapted) == before != model_identity(source)
    ADAPTER_CHANGES[change](adapter)
    assert model_identity(adapted) != before


def test_an_adapter_that_cannot_be_located_is_new_each_time(source, hub, caplog):
    adapted = dataclasses.replace(source, lora_paths=json.dumps({"a": "org/no-such-adapter"}))
    assert model_identity(adapted) != model_identity(adapted)
    assert "cannot locate the weights" in caplog.text


def test_an_adapter_loaded_while_serving_has_an_id_of_its_own():
    """No identity covers those, so their pages must not be found under an id of before."""
    from sglang.srt.lora.lora_registry import LoRARef
    from sglang.srt.managers.io_struct import LoadLoRAAdapterReqInput

    ids = {LoRARef(lora_name="a", lora_path="/a").lora_id for _ in range(2)}
    assert len(ids) == 2
    assert LoadLoRAAdapterReqInput(lora_name="a", lora_path="/a").lora_id is None


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A model hub's cache with one snapshot of `org/model`, revision `c0ffee`."""
    repository = tmp_path / "hub" / "models--org--model"
    for folder in ("blobs", "refs", "snapshots/c0ffee"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    for name, blob, content in (
        ("config.json", "aa", b"{}"),
        ("model.safetensors", "bb", bytes(10)),
    ):
        (repository / "blobs" / blob).write_bytes(content)
        (repository / "snapshots" / "c0ffee" / name).symlink_to(f"../../blobs/{blob}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(
        "huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub")
    )
    return repository


def test_a_hubs_blob_is_known_by_its_name(hub):
    source = ModelSource(model_path="org/model")
    before = model_identity(source)
    touch(hub / "blobs" / "bb")
    assert model_identity(source) == before
    (hub / "snapshots" / "c0ffee" / "model.safetensors").unlink()
    (hub / "blobs" / "cc").write_bytes(bytes(10))
    (hub / "snapshots" / "c0ffee" / "model.safetensors").symlink_to("../../blobs/cc")
    assert model_identity(source) != before


@pytest.mark.parametrize("path", ["org/not-in-the-cache", "s3://bucket/model", "not a name!"])
def test_weights_that_cannot_be_located_are_new_each_time(path, hub, caplog):
    source = ModelSource(model_path=path)
    assert model_identity(source) != model_identity(source)
    assert "cannot locate the weights" in caplog.text


@pytest.mark.parametrize(
    "elsewhere",
    [{"load_format": "remote_instance"}, {"weight_cache_mode": "client"}],
)
def test_weights_that_another_process_hands_over_are_new_each_time(source, elsewhere):
    """The files at the model's path need not be the ones which that process has loaded."""
    given = dataclasses.replace(source, **elsewhere)
    assert model_identity(given) != model_identity(given)


def test_a_folder_without_weights_is_new_each_time_unless_they_are_made_up(source, folder):
    (folder / "model-1.safetensors").unlink()
    assert model_identity(source) != model_identity(source)
    made_up = dataclasses.replace(source, load_format="dummy")
    assert model_identity(made_up) == model_identity(made_up)


def test_weights_downloaded_to_a_folder_are_looked_for_there(hub, tmp_path):
    download = tmp_path / "download"
    given = ModelSource(model_path="org/model", download_dir=str(download))
    assert model_identity(given) != model_identity(given)
    shutil.copytree(hub, download / hub.name, symlinks=True)
    (download / hub.name / "snapshots" / "c0ffee" / "config.json").unlink()
    before = model_identity(given)
    assert model_identity(given) == before
    blobs = download / hub.name / "blobs"
    (blobs / "bb").rename(blobs / "cc")
    weights = download / hub.name / "snapshots" / "c0ffee" / "model.safetensors"
    weights.unlink()
    weights.symlink_to("../../blobs/cc")
    assert model_identity(given) != before


def test_another_hub_is_not_looked_up_in_this_one(hub, monkeypatch):
    monkeypatch.setenv("SGLANG_USE_MODELSCOPE", "true")
    source = ModelSource(model_path="org/model")
    assert model_identity(source) != model_identity(source)


def test_no_model_at_all_is_still_an_identity():
    assert model_identity(ModelSource()) == model_identity(ModelSource())
