"""Stand-in for the CUDA package `sglang-kernel`, which does not load without a GPU."""

from sglang_lsm_cpu_runtime.standin import stand_in

__version__ = "0.0.0+cpu.standin"

stand_in(__name__)
