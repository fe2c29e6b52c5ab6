"""Results are found by name, and the page says where each figure comes from."""

from benchmark.publish.reports import Section, load_notes, origin, stems_of

STAR = Section("hitrate*", "Hits", "scripts/bench hitrate", lambda report: "")


def test_a_star_takes_every_file_that_begins_so() -> None:
    reports = {"engine": {}, "hitrate-agent": {}, "hitrate-chat": {}}
    assert stems_of(STAR, reports) == ["hitrate-agent", "hitrate-chat"]
    plain = Section("ttft", "", "", lambda report: "")
    assert stems_of(plain, reports) == []


def test_origin_tells_command_commit_machine_and_settings() -> None:
    machine = {"command": "scripts/bench x --quick", "commit": "abc", "cpu": "a cpu"}
    told = origin({"machine": machine, "settings": {"rounds": 3}}, "unused")
    assert all(text in told for text in ("scripts/bench x --quick", "abc", "a cpu", "rounds 3"))
    assert "scripts/bench y" in origin({"machine": {"commit": "abc"}}, "scripts/bench y")


def test_no_notes_are_no_error(tmp_path) -> None:
    assert load_notes(tmp_path).causes == {}
    (tmp_path / "notes.toml").write_text('[causes]\n"a | b" = "because"\n')
    assert load_notes(tmp_path).causes == {"a | b": "because"}
