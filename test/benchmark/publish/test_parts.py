"""A change of a part that makes a figure better is a loss of the engine as it comes."""

from benchmark.publish.parts import body, losses


def report(**figures: dict[str, float]) -> dict:
    rows = [
        {
            "kind": "engine",
            "variant": variant,
            "page_bytes": 65536,
            "round_number": 0,
            "figures": found,
        }
        for variant, found in figures.items()
    ]
    return {"rows": rows, "not_measured": {}}


def test_faster_without_a_part_is_a_loss() -> None:
    found = losses(report(store_auto={"cold_get": 1.0}, store_unverified={"cold_get": 2.0}))
    assert [(loss.against, loss.by) for loss in found] == [("not verified", "64 KiB 2.00x of ours")]


def test_cheaper_without_a_part_is_a_loss() -> None:
    figures = {"cold_cpu": 1.0, "cold_get": 1.0}
    found = losses(report(store_auto=figures, store_buffered={"cold_cpu": 0.5, "cold_get": 0.5}))
    assert [loss.what for loss in found] == ["ablation, O_DIRECT: CPU s/GB cold"]


def test_ratios_stand_beside_the_variants() -> None:
    told = body(report(store_auto={"hot_get": 2.0}, store_1_reader={"hot_get": 1.0}))
    assert "1.00 (0.500x)" in told


def test_a_part_of_reading_is_not_compared_by_puts() -> None:
    """Their ratios would be noise between two runs of the same code."""
    figures = {"put_durable": 1.0, "cold_get": 1.0}
    other = {"put_durable": 2.0, "cold_get": 1.0}
    assert losses(report(store_auto=figures, store_unverified=other)) == []
    assert [loss.what for loss in losses(report(store_auto=figures, store_direct=other))] == [
        "ablation, O_DIRECT: put+durable GB/s"
    ]
