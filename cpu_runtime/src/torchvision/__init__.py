"""Stand-in for torchvision, whose build on PyPI does not load beside a CPU build of torch."""

from sglang_lsm_cpu_runtime.standin import stand_in

__version__ = "0.0.0+cpu.standin"

stand_in(__name__)
