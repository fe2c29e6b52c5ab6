"""Each arm runs the same requests, and the tables come out of what it cost."""

from dataclasses import replace

from support.devices import device

from benchmark.bench_controller import ORACLE, arms_for, default_name, report, totals
from benchmark.shifting import Setting, Workload, quota_of, run_arm, workloads

SETTING = Setting(device(), 1.3e9, None, seed=1)


def tiny() -> Workload:
    flip = next(w for w in workloads(scale=0.01) if w.name == "flip")
    write, read = ([replace(r, page_bytes=4096) for r in flip.phases[i][1]] for i in (0, 1))
    return Workload("flip", [("write", write), ("read", read), ("again", read)])


def test_workloads_shift_and_fit_their_quota() -> None:
    trace = [list(range(n, n + 5)) for n in range(40)]
    made = workloads(scale=0.02, trace=trace)
    assert [w.name for w in made] == [
        "hit rates", "flip", "scan burst", "prompts", "page sizes", "trace"
    ]  # fmt: skip
    for workload in made:
        assert len(workload.phases) > 1
        assert all(requests for _, requests in workload.phases)
        assert quota_of(workload) > 0
    assert len(made[0].phases) == 7


def test_arms_are_run_and_compared(tmp_path) -> None:
    workload = tiny()
    arms = arms_for(workload, "quick")
    default = default_name(arms)
    chosen = [arm for arm in arms if arm.name in (default, "direct first 4 64", "tuned")]
    assert len(chosen) == 3
    costs = {
        arm.name: {0: run_arm(arm, chosen, workload, tmp_path / "run", SETTING)} for arm in chosen
    }
    assert not (tmp_path / "run").exists()
    oracle = totals(costs, ORACLE, chosen)[0]
    for arm in chosen:
        phases = costs[arm.name][0]
        assert [p.name for p in phases] == [name for name, _ in workload.phases]
        assert (phases[0].hit_share, phases[2].hit_share) == (0.0, 1.0)
        assert all(p.total_s > 0 for p in phases)
        if arm.mode == "off":
            assert {p.settings for p in phases} == {arm.name}
            assert totals(costs, arm.name, chosen)[0] >= oracle
            assert set(phases[0].predicted) == {a.name for a in chosen if a.mode == "off"}
    text = report(workload, chosen, costs)
    assert all(arm.name in text for arm in chosen)


def test_every_grid_has_the_default_and_each_mode_with_each_admission() -> None:
    workload = tiny()
    sizes = {}
    for grid in ("quick", "modes", "star", "full"):
        static = [arm for arm in arms_for(workload, grid) if arm.mode == "off"]
        assert default_name(arms_for(workload, grid)) == "auto first 4 64"
        assert len({(a.config.log.io_mode, a.config.admission) for a in static}) == 6
        assert len({a.config for a in static}) == len({a.name for a in static}) == len(static)
        sizes[grid] = len(static)
    assert sizes == {"quick": 6, "modes": 6, "star": 9, "full": 36}
