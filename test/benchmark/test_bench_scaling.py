"""Each study yields every line at every point of its plan."""

from pathlib import Path

from benchmark.bench_scaling import (
    Plan,
    by_clients,
    by_entries_of_an_index,
    by_pages_of_a_store,
    by_prompt_tokens,
    path_of,
)
from benchmark.publish.scaling import SECTION, STUDIES

PLAN = Plan(
    store_pages=(256, 512),
    index_pages=(256, 1024),
    prompt_tokens=(1024, 4096),
    clients=(1, 3),
    repeats=3,
    rounds=1,
)


def test_every_line_has_every_point_and_is_shown(tmp_path: Path) -> None:
    rows = [
        *by_pages_of_a_store(PLAN, tmp_path / "store"),
        *by_entries_of_an_index(PLAN, tmp_path / "index"),
        *by_prompt_tokens(PLAN, tmp_path / "prompts", 0),
        *by_clients(PLAN, tmp_path / "clients", 0),
    ]
    assert all(row.value > 0 for row in rows)
    places = {
        ("pages", "store"): {256, 512},
        ("pages", "index"): {256, 1024},
        ("prompts", ""): {1024, 4096},
        ("clients", ""): {1, 3},
    }
    for (study, start), wanted in places.items():
        lines = {row.line for row in rows if row.study == study and row.line.startswith(start)}
        assert lines
        for line in lines:
            assert {row.x for row in rows if (row.study, row.line) == (study, line)} == wanted
    fields = ("study", "line", "x", "value", "unit", "round_number")
    report = {"rows": [{name: getattr(row, name) for name in fields} for row in rows]}
    told = SECTION.body(report)
    assert all(title in told for title in STUDIES.values())
    assert "grew" in told
    pictures = SECTION.plots(report, tmp_path / "scaling")
    assert all(path.stat().st_size < 150_000 for path in pictures)
    assert len(pictures) == len(STUDIES)


def test_the_short_studies_alone_make_a_page(tmp_path: Path) -> None:
    row = {"line": "put", "x": 1024, "value": 2.0, "unit": "us", "round_number": 0}
    report = {"rows": [{**row, "study": "prompts"}]}
    assert STUDIES["prompts"] in SECTION.body(report)
    assert [path.name for path in SECTION.plots(report, tmp_path / "s")] == ["s-prompts.png"]


def test_a_half_known_path_begins_as_the_stored_one() -> None:
    stored, half = path_of("a", 128), path_of("a", 128, known=64)
    assert half.hashes[:64] == stored.hashes[:64]
    assert half.hashes[64] != stored.hashes[64]


def test_beyond_what_was_measured_a_line_goes_on_by_its_step_a_decade() -> None:
    def row(line: str, x: int, value: float) -> dict[str, object]:
        place = {"study": "pages", "line": line, "x": x, "round_number": 0}
        return {**place, "value": value, "unit": "us"}

    rows = [row("grows", 10**4, 10.0), row("grows", 10**6, 14.0)]
    rows += [row("falls", 10**4, 9.0), row("falls", 10**5, 7.0), row("once", 10**4, 1.0)]
    rows += [{**row("p", 1024, 1.0), "study": "prompts"}, {**row("c", 1, 1.0), "study": "clients"}]
    told = SECTION.body({"rows": rows}).split("by arithmetic")[1]
    assert [cell.strip() for cell in told.split("| grows, us")[1].split("|")[2:4]] == [
        "2.00",
        "18.0",
    ]
    assert "| 7.00" in told.split("| falls, us")[1]
    assert "once" not in told
