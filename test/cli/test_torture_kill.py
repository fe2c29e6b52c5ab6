import pytest
from sglang_lsm.cli import torture_kill
from sglang_lsm.cli.main import main
from sglang_lsm.cli.torture_kill import KillReport, torture_by_kill


@pytest.mark.parametrize("num_kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_what_was_acknowledged_is_read_back_after_each_kill(tmp_path, capsys, num_kills):
    assert main(["torture", str(tmp_path / "store"), "--kill", str(num_kills)]) == 0
    out = capsys.readouterr().out
    assert f"{num_kills} kills, " in out
    assert " 0 pages acknowledged" not in out
    assert "0 lost, 0 wrong" in out


def test_a_page_that_was_never_written_counts_as_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(torture_kill, "_write_until_killed", lambda *arguments: [1, 2])
    report = torture_by_kill(tmp_path / "store", num_kills=1, seed=0)
    assert (report.num_acknowledged, report.num_lost) == (6, 6)
    assert not report.is_sound
    assert KillReport(seed=0).is_sound
