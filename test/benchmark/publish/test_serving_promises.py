"""Hit rates are held against the optimum at the promised sizes, and TTFT against recomputing."""

from benchmark.bench_hitrate import OPTIMUM
from benchmark.publish.load import RESTART
from benchmark.publish.serving_promises import serving_promises
from benchmark.ttft_report import COLD, DEVICE, DISK_COLD, DISK_HOT, HOST_HIT


def rates(policy: str, hits: int) -> dict:
    return {"policy": policy, "share": 0.1, "hits": hits, "asked": 100}


def sample(row: str, phase: str, ttft_s: float) -> dict:
    return {
        "row": row,
        "phase": phase,
        "prompt_tokens": 4097,
        "ttft_s": ttft_s,
        "device_tokens": 0,
        "host_tokens": 0,
        "disk_tokens": 0,
        "output_ids": [],
        "model": "kv-heavy",
        "round_number": 1,
    }


def test_without_results_nothing_is_met() -> None:
    assert {one.verdict for one in serving_promises({})} == {"not run"}


def test_hit_rates_are_ratios_at_the_same_size() -> None:
    rows = [rates("lsm reuse", 30), rates(OPTIMUM, 40), rates("SGLang file evictor", 20)]
    found = {one.key: one for one in serving_promises({"hitrate-x": {"results": rows}})}
    optimum = found[f"{OPTIMUM} | hitrate-x, 10% of the set"]
    assert (round(optimum.seen.median, 3), optimum.verdict) == (0.75, "MISSED")
    assert found["SGLang file evictor | hitrate-x, 10% of the set"].verdict == "met"
    assert found[f"{OPTIMUM} | hitrate-x, 5% of the set"].verdict == "not run"


def test_against_the_optimum_or_the_best_published_policy_whichever_is_nearer() -> None:
    rows = [rates("lsm reuse", 30), rates(OPTIMUM, 40), rates("lsm leaf-first LRU", 29)]
    rows += [rates("ARC (libcachesim)", 27), rates("page LRU", 20)]
    found = {one.key: one for one in serving_promises({"hitrate-x": {"results": rows}})}
    assert f"{OPTIMUM} | hitrate-x, 10% of the set" not in found
    nearer = found["ARC (libcachesim) | hitrate-x, 10% of the set"]
    assert (nearer.target, round(nearer.seen.median, 3), nearer.verdict) == (1.1, 1.111, "met")
    rows[1] = rates(OPTIMUM, 31)
    found = {one.key: one for one in serving_promises({"hitrate-x": {"results": rows}})}
    assert found[f"{OPTIMUM} | hitrate-x, 10% of the set"].verdict == "met"


def test_twice_the_file_evictors_hits_are_looked_for_at_every_size() -> None:
    rows = [rates("lsm reuse", 30), rates("SGLang file evictor", 20)]
    rows += [{**row, "share": 0.02, "hits": row["hits"] * factor} for row, factor in
             zip(rows, (1, 0.6), strict=True)]  # fmt: skip
    found = {one.key: one for one in serving_promises({"hitrate-x": {"results": rows}})}
    most = found["SGLang file evictor | hitrate-x, most of all sizes"]
    assert (round(most.seen.median, 2), most.verdict) == (2.5, "met")


def test_times_and_loads_compare_inside_a_round() -> None:
    samples = [
        sample("recompute", COLD, 8.0),
        sample("lsm", DEVICE, 1.0),
        sample("lsm", DISK_COLD, 2.0),
        sample("file", DEVICE, 1.0),
        sample("file", DISK_COLD, 2.5),
    ]
    found = {one.key: one for one in serving_promises({"ttft": {"samples": samples}})}
    where = "kv-heavy, 4097 tokens"
    sooner = found[f"recompute | times sooner, {where}, {DISK_COLD}"]
    assert (sooner.seen.median, sooner.verdict) == (4.0, "met")
    load = found[f"file | load time, {where}, {DISK_COLD}"]
    assert (round(load.seen.median, 3), load.verdict) == (0.667, "MISSED")


def test_a_host_row_that_was_found_on_the_device_is_no_host_hit() -> None:
    key = f"host hit | TTFT, asked alone, kv-heavy, 4097 tokens, {DISK_HOT}"
    lsm = [sample("lsm", phase, seconds) for phase, seconds in ((DEVICE, 0.5), (DISK_HOT, 2.0))]
    samples = [*lsm, sample("host", HOST_HIT, 1.0)]
    assert key not in {one.key for one in serving_promises({"ttft": {"samples": samples}})}
    samples[-1]["host_tokens"] = 4096
    found = {one.key: one for one in serving_promises({"ttft": {"samples": samples}})}
    assert (found[key].seen.median, found[key].verdict) == (2.0, "MISSED")


def test_host_hits_with_many_clients_are_those_of_the_run_made_for_them() -> None:
    def asked(row: str, phase: str, ttft_s: float) -> dict:
        place = {"round_number": 1, "prompt": 0, "clients": 4}
        return {**place, "row": row, "phase": phase, "ttft_s": ttft_s}

    cut_off = {"samples": [asked("lsm", DISK_HOT, 9.0)], "totals": []}
    whole = {"samples": [asked("lsm", DISK_HOT, 2.2), asked("host", HOST_HIT, 2.0)], "totals": []}
    key = f"host hit | TTFT p50, 4 at once, kv-heavy, 1k tokens, {DISK_HOT}"
    for reports, verdict in (
        ({"load": cut_off}, "not run"),
        ({"load": cut_off, "load-host": whole}, "met"),
        ({"load": whole}, "met"),
    ):
        assert {one.key: one for one in serving_promises(reports)}[key].verdict == verdict


def test_load_times_with_many_clients_are_ratios_of_the_same_percentile() -> None:
    def asked(row: str, phase: str, ttft_s: float, clients: int = 8) -> dict:
        place = {"round_number": 1, "prompt": 0, "clients": clients}
        return {**place, "row": row, "phase": phase, "ttft_s": ttft_s}

    samples = [
        asked("file", DEVICE, 1.0),
        asked("file", DISK_COLD, 3.0),
        asked("lsm", DEVICE, 1.0),
        asked("lsm", DISK_COLD, 2.0),
        asked("lsm", COLD, 12.0, clients=1),
        {**asked("lsm", RESTART, 2.0, clients=1), "round_number": 2},
    ]
    totals = [{"row": "file", "scheduler_ms": {}}, {"row": "lsm", "scheduler_ms": {"p50": 0.5}}]
    found = {
        one.key: one
        for one in serving_promises({"load-long": {"samples": samples, "totals": totals}})
    }
    load = found[f"file | load time p50, kv-heavy, 4097 tokens, 8 at once, {DISK_COLD}"]
    assert (load.seen.median, load.verdict) == (0.5, "met")
    restart = found[
        "recompute | times sooner after a restart, kv-heavy, 4097 tokens, cold page cache"
    ]
    assert (restart.seen.median, restart.verdict) == (6.0, "met")
    thread = found["itself | scheduler thread p50 a request, kv-heavy, 4097 tokens"]
    assert (thread.seen.median, thread.verdict) == (0.5, "met")


def test_misses_are_told_by_length_and_policy_against_the_host_tier_alone() -> None:
    misses = [
        {"model": "kv-heavy", "row": row, "prompt_tokens": 1025, "round_number": number,
         "place": 0, "ttft_s": number * slower, "total_s": 9.0}
        for number in (1, 2, 3)
        for row, slower in (("host", 1.0), ("evict", 1.02), ("through", 1.1))
    ]  # fmt: skip
    found = {one.key: one for one in serving_promises({"misses": {"misses": misses}})}
    where = "host tier alone | TTFT of a miss, kv-heavy, 1025 tokens"
    assert found[f"{where}, evict"].verdict == "met"
    assert found[f"{where}, through"].verdict == "MISSED"
