"""A stand-in answers every import and refuses every call."""

import importlib

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU runtime is for CPUs")


@pytest.mark.parametrize("package", ["sgl_kernel", "torchvision"])
def test_any_name_imports_and_raises_when_called(package):
    module = importlib.import_module(f"{package}.some.submodule")
    with pytest.raises(NotImplementedError, match=rf"{package}\.some\.submodule\.kernel"):
        module.kernel(1, out=None)
    with pytest.raises(NotImplementedError, match=rf"name={package}\.Thing\.member"):
        importlib.import_module(package).Thing.member()


def test_names_serve_as_types():
    from torchvision.transforms import Compose

    assert not isinstance(1, Compose)
    assert Compose | None


def test_inspection_sees_no_invented_dunder():
    import sgl_kernel

    assert not hasattr(sgl_kernel, "__wrapped__")


def test_refused_where_there_is_a_gpu(monkeypatch):
    from sglang_lsm_cpu_runtime.standin import stand_in

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ImportError, match="pip uninstall"):
        stand_in("torchvision")


@pytest.mark.parametrize("plugin", ["attention", "host_pool"])
def test_plugins_do_nothing_where_there_is_a_gpu(monkeypatch, plugin):
    from sglang.srt.plugins.hook_registry import HookRegistry

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = {target: len(hooks) for target, hooks in HookRegistry._hooks.items()}
    importlib.import_module(f"sglang_lsm_cpu_runtime.{plugin}").register()
    assert {target: len(hooks) for target, hooks in HookRegistry._hooks.items()} == before
