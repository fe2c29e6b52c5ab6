"""Equal identity means equal weights; any doubt gives another identity."""

import dataclasses
import os
import shutil

import pytest

from sglang_lsm_patch.identity import model_identity
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


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ModelSource)][1:])
def test_each_option_that_decides_the_kv_decides_the_identity(source, field):
    assert model_identity(dataclasses.replace(source, **{field: "x"})) != model_identity(source)


def test_a_copy_elsewhere_is_another_model(source, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy2)
    copied = ModelSource(model_path=str(tmp_path / "copy"))
    assert model_identity(copied) != model_identity(source)


def test_another_way_to_the_same_folder_is_the_same_model(source, folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert model_identity(ModelSource(model_path=str(tmp_path / "link"))) == model_identity(source)


def test_changed_scales_are_another_model(source, tmp_path):
    scales = tmp_path / "scales.json"
    scales.write_text("{}")
    scaled = dataclasses.replace(source, quantization_param_path=str(scales))
    before = model_identity(scaled)
    touch(scales)
    assert model_identity(scaled) != before


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


def test_no_model_at_all_is_still_an_identity():
    assert model_identity(ModelSource()) == model_identity(ModelSource())
