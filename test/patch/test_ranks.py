"""Every rank writes its store, also where SGLang would have one rank write for all."""

from types import SimpleNamespace

import pytest
from sglang_pools import make_storage_config

from sglang_lsm_patch.ranks import let_this_rank_write


@pytest.mark.parametrize("is_mla", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_no_rank_skips_its_backup(settings, is_mla, rank):
    from sglang.srt.managers.cache_controller import HiCacheController

    config = make_storage_config(settings, tp_rank=rank, tp_size=4, is_mla_model=is_mla)
    controller = SimpleNamespace(storage_config=config)
    skips = HiCacheController.backup_skip.fget
    was_skipping = skips(controller)

    assert was_skipping == (is_mla and rank > 0)
    assert let_this_rank_write(controller) == was_skipping
    assert not skips(controller)
    assert not let_this_rank_write(controller)
    assert (controller.storage_config.tp_rank, controller.storage_config.tp_size) == (rank, 4)
    assert config.is_mla_model == is_mla
