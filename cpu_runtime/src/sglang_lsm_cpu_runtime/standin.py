"""Packages whose every name exists and raises when it is called.

SGLang imports names from `sgl_kernel` and `torchvision` at module level even where it never calls
them. A stand-in answers those imports, submodules included, and turns a call that was thought
impossible into an error that names the function.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

import torch


class _Uncallable(type):
    """A class, not a function: names are also used as bases, in annotations and in isinstance."""

    def __getattr__(cls, name: str) -> type:
        return _absent(cls, name, f"{cls.__module__}.{cls.__qualname__}")

    def __call__(cls, *_args: object, **_kwargs: object) -> object:
        raise NotImplementedError(f"no CPU stand-in. name={cls.__module__}.{cls.__qualname__}")


class _StandInModule(ModuleType):
    def __getattr__(self, name: str) -> type:
        return _absent(self, name, self.__name__)


def _absent(owner: object, name: str, owner_name: str) -> type:
    # Dunders are asked for by import machinery and inspection, which take absence for an answer.
    if name.startswith("__"):
        raise AttributeError(name)
    value = _Uncallable(name, (), {"__module__": owner_name})
    setattr(owner, name, value)
    return value


class _SubmoduleFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, package: str) -> None:
        self._prefix = package + "."

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(self._prefix):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def stand_in(package: str) -> None:
    """Turn the module `package`, which is being imported, into a stand-in.

    Raises:
        ImportError: there is a CUDA device, so that the real package belongs here.
    """
    if torch.cuda.is_available():
        raise ImportError(
            f"the CPU stand-in must not be used beside a GPU; run `pip uninstall "
            f"sglang-lsm-cpu-runtime` and install the real package. package={package}"
        )
    sys.meta_path.append(_SubmoduleFinder(package))
    sys.modules[package].__class__ = _StandInModule
