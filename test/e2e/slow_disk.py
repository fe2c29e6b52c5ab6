"""A disk that a test makes slow while a server runs on it: a plugin, loaded beside ours.

It stands between the tensor log and the real files, in the server's processes, and waits before
each read for as long as the test's file says.
"""

import os
import time
from pathlib import Path

CONTROL = "SLOW_DISK_CONTROL"
"""Names the file that holds the seconds a MiB of reading takes longer; no file, no wait."""

METADATA = "Metadata-Version: 2.1\nName: slow-disk\nVersion: 1\n"
ENTRY_POINTS = "[sglang.srt.plugins]\nslow_disk = slow_disk:register\n"


class SlowDisk:
    """The switch of a server that is started with `environment()`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._control = folder, folder / "seconds-per-mib"
        info = folder / "slow_disk-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(METADATA)
        (info / "entry_points.txt").write_text(ENTRY_POINTS)

    def environment(self) -> dict[str, str]:
        """Return what the server must be started with."""
        places = (str(self._folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
        return {"PYTHONPATH": os.pathsep.join(places), CONTROL: str(self._control)}

    def slow_down(self, *, seconds_per_mib: float) -> None:
        """Let reads take so much longer from now on."""
        self._control.write_text(str(seconds_per_mib))


def register() -> None:
    """Wrap the reads of this process; called by SGLang."""
    from sglang_lsm.fs import LocalFile

    control, read = Path(os.environ[CONTROL]), LocalFile.preadv

    def read_slowly(self: LocalFile, buffers: list[memoryview], offset: int) -> int:
        num_read = read(self, buffers, offset)
        if control.exists():
            time.sleep(float(control.read_text()) * num_read / (1 << 20))
        return num_read

    LocalFile.preadv = read_slowly  # type: ignore[method-assign]
