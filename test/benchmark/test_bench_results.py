"""The page says what the files say, again and again, and what is missing."""

import json
import statistics
from pathlib import Path

import pytest

from benchmark.bench_results import PAGE, RESULTS, SECTIONS, links, main, page
from benchmark.harness import command_line
from benchmark.publish.reports import Notes, load, load_notes

NO_NOTES = Notes({}, {})


def test_the_committed_page_is_what_its_files_make() -> None:
    reports = load(RESULTS)
    made = page(reports, load_notes(RESULTS), links(RESULTS, PAGE, list(reports)))
    assert PAGE.read_text() == made, "run scripts/bench results and commit the page"


def test_a_result_without_a_section_shows_its_own_tables() -> None:
    tables = [{"title": "speed", "head": ["a", "b"], "rows": [["1", "2"]]}]
    told = page({"novelty": {"machine": {"commit": "abc"}, "tables": tables}}, NO_NOTES, {})
    assert "## novelty" in told
    assert "#### speed" in told
    printed = {"machine": {}, "results": [{"text": "\n### scan burst\n| a |"}, {"other": 1}]}
    assert "\n#### scan burst\n" in page({"novelty": printed}, NO_NOTES, {})


def test_committed_plots_are_small() -> None:
    assert all(path.stat().st_size < 150_000 for path in RESULTS.glob("*.png"))


def test_what_was_not_run_is_named_with_its_command() -> None:
    told = page({}, NO_NOTES, {})
    for section in SECTIONS:
        assert f"## {section.title}\n\nNot run. `{section.command}`" in told


def test_a_folder_without_results_is_an_error(tmp_path: Path, capsys) -> None:
    assert main(["--from", str(tmp_path), "--out", str(tmp_path / "page.md")]) == 1
    assert "no result" in capsys.readouterr().err


def test_pictures_are_linked_from_the_page(tmp_path: Path) -> None:
    for name in ("ttft-kv-heavy.png", "ttft-quick-kv-heavy.png", "other.png"):
        (tmp_path / name).touch()
    found = links(tmp_path, tmp_path.parent / "page.md", ["ttft", "ttft-quick"])
    folder = tmp_path.name
    assert found["ttft"] == [f"{folder}/ttft-kv-heavy.png"]
    assert found["ttft-quick"] == [f"{folder}/ttft-quick-kv-heavy.png"]


def test_the_page_of_a_folder_is_written_there(tmp_path: Path) -> None:
    kept = json.loads((RESULTS / "ttft-quick.json").read_text())
    (tmp_path / "ttft.json").write_text(json.dumps(kept))
    out = tmp_path / "page.md"
    assert main(["--from", str(tmp_path), "--out", str(out)]) == 0
    assert kept["machine"]["commit"] in out.read_text()
    assert list(tmp_path.glob("ttft-*.png"))


@pytest.mark.parametrize("where", ["a/b/bench_engine.py", "bench_engine.py"])
def test_a_command_names_no_folder_of_the_machine(where: str) -> None:
    told = command_line([where, "--quick", "--json", "/some/place/engine.json"])
    assert told == "scripts/bench engine --quick --json engine.json"


def test_the_page_about_large_nodes_starts_from_the_results() -> None:
    starts = load(RESULTS)["open"]["starts"]
    cells = load(RESULTS)["engine"]["cells"]

    def start(kind: str, figure: str) -> float:
        return statistics.median(row[figure] for row in starts if row["start"] == kind)

    def cpu(figure: str, rival: str) -> float:
        return statistics.median(
            cell["figures"][figure]
            for cell in cells
            if (cell["rival"], cell["page_bytes"], cell["batch_pages"]) == (rival, 1 << 20, 32)
            and not cell["memory_limit_bytes"]
        )

    said = (RESULTS.parents[1] / "docs" / "large.md").read_text()
    for row, value in (
        ("index on disk", start("clean", "index_disk_bytes")),
        ("RAM beyond fixed caches", start("clean", "ram_bytes")),
        ("the same, after a kill", start("killed", "ram_bytes")),
        ("first hit after a clean stop", start("clean", "first_hit_s")),
        ("first hit after a kill", start("killed", "first_hit_s")),
        ("page table complete after a kill", start("killed", "table_s")),
        ("CPU of a put", cpu("put_durable_cpu", "store_auto")),
        ("CPU of a cold get", cpu("cold_cpu", "store_direct")),
    ):
        (line,) = [line for line in said.splitlines() if line.startswith(f"| {row}")]
        # Arithmetic on paper is right as long as what it starts from is about right.
        assert float(line.split("|")[2].split()[0]) == pytest.approx(value, rel=0.2), line
