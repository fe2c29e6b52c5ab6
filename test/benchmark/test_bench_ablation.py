"""Every part of the engine that the ablation speaks of is measured with it and without it."""

import json
from pathlib import Path

import pytest

from benchmark import bench_ablation
from benchmark.bench_ablation import Plan, main
from benchmark.publish.parts import PARTS
from benchmark.rivals import RIVALS, VARIANTS, Space, open_rival


def test_every_variant_of_a_part_is_run() -> None:
    run = {"engine": bench_ablation.ENGINE, "keys": bench_ablation.KEYS}
    for part in PARTS:
        if part.kind in run:
            assert {variant for variant, _ in part.variants} <= set(run[part.kind])
    assert set(bench_ablation.ENGINE) <= RIVALS.keys() | VARIANTS.keys()


def test_each_kind_of_part_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_ablation, "QUICK", Plan(1, (8192,), 1 << 20, 2000))
    monkeypatch.setattr(bench_ablation, "ENGINE", ("store_auto", "store_page_calls"))
    monkeypatch.setattr(bench_ablation, "KEYS", ("radix_path",))
    out = tmp_path / "ablation.json"
    assert main(["--quick", "--json", str(out), "--dir", str(tmp_path / "bench")]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert {(row["kind"], row["variant"]) for row in rows} == {
        ("engine", "store_auto"),
        ("engine", "store_page_calls"),
        ("keys", "radix_path"),
        ("merging", "alone"),
        ("merging", "in turn"),
        ("merging", "merged"),
    }
    assert "a call a page" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_variant_is_not_a_rival_and_opens(name: str, tmp_path: Path) -> None:
    assert name not in RIVALS
    open_rival(name, Space(tmp_path, 4096, 1)).close()
