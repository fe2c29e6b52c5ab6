"""What is lost is found: every rival that is faster at a point, and no other."""

from benchmark.publish.engine import body, losses, plots


def test_only_faster_rivals_are_losses(report, tmp_path) -> None:
    found = losses(report({"store_auto": 2.0, "hicache_file": 1.0, "lmdb": 4.0}))
    assert {loss.against for loss in found} == {"LMDB"}
    assert {loss.what for loss in found} == {"put", "put+durable", "hot get", "cold get"}
    assert all("64 KiB x 32 0.500x" in loss.by for loss in found)


def test_the_section_names_who_was_not_measured(report) -> None:
    assert "not installed" in body(report({"store_auto": 2.0}))


def test_a_plot_is_drawn_and_small(report, tmp_path) -> None:
    (path,) = plots(report({"store_auto": 2.0, "lmdb": 4.0}), tmp_path / "engine")
    assert 1000 < path.stat().st_size < 150_000
