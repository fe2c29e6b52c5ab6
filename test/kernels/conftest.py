"""The kernels run on a GPU where there is one, and otherwise in Triton's interpreter."""

import importlib
import sys

import pytest
import torch
import triton.language  # noqa: F401 - before the variable is set, or triton's own library changes too

_KERNEL_MODULES = ("page_tile", "gather_pages", "scatter_pages")


def _import_interpreted() -> None:
    """Import the kernels for the interpreter, whatever was imported before, and leave no trace.

    Triton decides between compiler and interpreter where a kernel is defined, and nowhere later. So
    the environment variable is set for these imports alone, and modules that another test has
    imported for the compiler are imported anew: it keeps what it has.
    """
    names = [f"sglang_lsm.kernels.{module}" for module in _KERNEL_MODULES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in names:
            sys.modules.pop(name, None)
        for name in names:
            importlib.import_module(name)


if not torch.cuda.is_available():
    _import_interpreted()


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
