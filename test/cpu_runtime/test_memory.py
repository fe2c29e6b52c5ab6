"""Tensors of a prefill are made of memory that the process has already."""

import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU runtime is for CPUs")

SCRIPT = """
import resource, sys, torch
from sglang_lsm_cpu_runtime import memory

def faults(mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(mib << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
if sys.argv[1] == "kept":
    memory.register()
faults(64)
print(faults(60))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts Linux's page faults")
def test_memory_of_a_freed_tensor_is_used_again():
    def faults(how):
        command = [sys.executable, "-c", SCRIPT, how]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    assert faults("stock") > 100
    assert faults("kept") < 10
