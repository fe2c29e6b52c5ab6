"""The fingerprint names the bytes of a page; each rank has a place of its own."""

import itertools

from sglang_pools import HEAD_DIM, HEADS, LAYERS, PAGE_SIZE, make_storage_config, mha_pool, mla_pool

from sglang_lsm_patch.fingerprint import fingerprint_of, rank_directory


def test_the_shape_is_read_off_the_pool(settings):
    fingerprint = fingerprint_of(mha_pool(), make_storage_config(settings, tp_rank=1), settings)
    assert fingerprint.layout == "page_first_direct"
    assert fingerprint.kv_dtype == "float32"
    assert (fingerprint.page_size, fingerprint.num_layers) == (PAGE_SIZE, LAYERS)
    assert (fingerprint.num_kv_heads, fingerprint.head_dim) == (HEADS, HEAD_DIM)
    assert fingerprint.tp_rank == 1


def test_mla_keeps_one_row_a_token(settings):
    fingerprint = fingerprint_of(mla_pool(), make_storage_config(settings), settings)
    assert (fingerprint.num_kv_heads, fingerprint.head_dim, fingerprint.v_head_dim) == (1, 24, 0)


def test_a_format_tag_and_other_layers_make_another_namespace(settings):
    config = make_storage_config(settings)
    plain, tagged, shifted = mha_pool(), mha_pool(), mha_pool()
    tagged.storage_format_tag = "fp4"
    shifted.start_layer, shifted.end_layer = 3, 5
    namespaces = {fingerprint_of(p, config, settings).namespace for p in (plain, tagged, shifted)}
    assert len(namespaces) == 3


def test_every_rank_and_replica_has_its_own_directory(settings):
    ranks = itertools.product(range(2), repeat=5)
    places = {
        rank_directory(
            settings,
            make_storage_config(
                settings, tp_rank=tp, pp_rank=pp, attn_cp_rank=cp, attn_cp_size=2, dp_rank=attention
            ),
            dp,
        )
        for tp, pp, cp, attention, dp in ranks
    }
    assert len(places) == 32
    assert all(str(place.parent) == settings.path for place in places)


def test_the_preflight_check_finds_every_rank_directory(settings):
    from fnmatch import fnmatch

    from sglang_lsm_patch.preflight import RANK_DIRS

    config = make_storage_config(settings, tp_rank=3, attn_cp_rank=1, attn_cp_size=2, dp_rank=1)
    for replica in (0, 2):
        assert fnmatch(rank_directory(settings, config, replica).name, RANK_DIRS)
