import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from kernel_cases import POISON, Case, cases, make_memory, make_staging
from sglang_lsm.kernels.gather_pages import _gather_pages_kernel
from sglang_lsm.kernels.page_tile import TILE_BYTES, launch, tile_geometry
from triton.runtime.jit import JITFunction


@given(case=cases())
@settings(max_examples=50, deadline=None)
def test_tiles_cover_every_run_in_whole_vectors(case: Case, device: torch.device) -> None:
    memory = make_memory(case, device)
    staging, _ = make_staging(case, memory.pool, fill=POISON)
    geometry = tile_geometry(memory.pool, staging, tile_bytes=case.tile_bytes)
    word, pool = geometry.word_bytes, memory.pool

    covered = geometry.tile * geometry.num_tiles
    for extents, layout in ((geometry.k, pool.k), (geometry.v, pool.v)):
        run_bytes = pool.page_size * layout.row_bytes if layout else 0
        assert extents.rows * extents.row * word == run_bytes
        assert extents.rows * extents.row <= covered
    assert geometry.staging_stride * word >= pool.page_bytes
    assert geometry.tile & (geometry.tile - 1) == 0
    assert geometry.tile * word >= geometry.vector_bytes
    assert pool.alignment % geometry.vector_bytes == 0
    assert all(row.data_ptr() % geometry.vector_bytes == 0 for row in staging)


@pytest.mark.parametrize(
    ("case", "vector_bytes"),
    [
        (Case(k_dim=8, v_dim=8), 16),
        (Case(k_dim=8, v_dim=8, k_gap=4), 4),
        (Case(k_dim=8, v_dim=8, offset=2), 2),
        (Case(k_dim=8, v_dim=8, staging_offset_bytes=8), 8),
        (Case(k_dim=8, v_dim=8, staging_pad_bytes=1), 1),
        (Case(k_dim=3, v_dim=3), 8),
    ],
)
def test_vector_width_follows_the_alignment(
    case: Case, vector_bytes: int, device: torch.device
) -> None:
    memory = make_memory(case, device)
    staging, _ = make_staging(case, memory.pool, fill=POISON)
    geometry = tile_geometry(memory.pool, staging, tile_bytes=TILE_BYTES)
    assert geometry.vector_bytes == vector_bytes


def test_a_lone_page_of_padded_staging_needs_no_other_kernel(device: torch.device) -> None:
    """One page cut from a staging ring has the constants of the whole ring: nothing to compile."""
    case = Case(page_ids=[0, 1, 2], staging_pad_bytes=64)
    memory = make_memory(case, device)
    staging, _ = make_staging(case, memory.pool, fill=POISON)
    whole = tile_geometry(memory.pool, staging, tile_bytes=TILE_BYTES)
    assert tile_geometry(memory.pool, staging[1:2], tile_bytes=TILE_BYTES) == whole


@pytest.mark.parametrize("tile_bytes", [0, 8, 48])
def test_tile_that_is_no_power_of_two_is_refused(tile_bytes: int, device: torch.device) -> None:
    memory = make_memory(Case(), device)
    staging, _ = make_staging(Case(), memory.pool, fill=POISON)
    with pytest.raises(ValueError, match="tile_bytes must be a power of two"):
        tile_geometry(memory.pool, staging, tile_bytes=tile_bytes)


def test_a_compiled_kernel_on_a_cpu_pool_is_refused() -> None:
    """Addresses of one side must never be followed on the other."""
    memory = make_memory(Case(), torch.device("cpu"))
    staging, _ = make_staging(Case(), memory.pool, fill=POISON)
    compiled = JITFunction(_gather_pages_kernel.fn)
    with pytest.raises(ValueError, match="use the reference"):
        launch(compiled, memory.pool, memory.page_ids, staging, TILE_BYTES)


COMPILE_FOR_GPU = """
import re, sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sglang_lsm.kernels.gather_pages import _gather_pages_kernel
from sglang_lsm.kernels.page_tile import TILE_BYTES, tile_geometry
from sglang_lsm.kernels.paged_pool import PagedPool
from sglang_lsm.kernels.scatter_pages import _scatter_pages_kernel

k = torch.empty(128, 8, 192, dtype=torch.bfloat16)
v = torch.empty(128, 10, 128, dtype=torch.bfloat16)[:, :8]
pool = PagedPool.of([k], [v], page_size=64)
staging = torch.empty(2, pool.page_bytes, dtype=torch.uint8)
geometry = tile_geometry(pool, staging, tile_bytes=TILE_BYTES)
constants, options = geometry.constants(), {"num_warps": geometry.num_warps}
pointers = {"addresses_ptr": "*i64", "page_ids_ptr": "*i64", "staging_ptr": "*u8"}
signature = {**pointers, **dict.fromkeys(constants, "constexpr")}
for kernel in (_gather_pages_kernel, _scatter_pages_kernel):
    source = ASTSource(kernel, signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = compiled.asm["ptx"]
    stores = re.findall(r"st[.]global[.]([.0-9a-z]+)", ptx)
    wide_loads = re.findall(r"ld[.]global[.](v[.0-9a-z]+)", ptx)
    print(len(stores), *sorted(set(stores)), len(wide_loads), *sorted(set(wide_loads)))
"""


def test_compiled_code_moves_sixteen_bytes_an_access(tmp_path: Path) -> None:
    """Dense K, strided V of another width: a tile is four 16-byte accesses of each thread.

    Compiling needs no GPU. It runs in a process of its own, where nothing is interpreted.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE_FOR_GPU],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["4 v2.b64 4 v2.b64"] * 2
