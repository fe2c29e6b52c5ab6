"""What a file system can do, found out by trying."""

from pathlib import Path

from sglang_lsm import format
from sglang_lsm.errors import UnavailableError
from sglang_lsm.fs import FileSystem

_TRIAL_NAME = "punch-trial"


def try_file_system(fs: FileSystem, directory: Path) -> tuple[bool, bool]:
    """Return whether the file system punches holes, and whether it takes O_DIRECT."""
    path = directory / _TRIAL_NAME
    try:
        fs.unlink(path)
        trial = fs.open(path, create=True)
    except UnavailableError:
        # A full disk tells nothing; the first hole and the first write will.
        return True, True
    try:
        trial.allocate(0, 2 * format.BLOCK_BYTES)
        can_punch = trial.punch(0, format.BLOCK_BYTES)
    except UnavailableError:
        can_punch = True
    try:
        fs.open(path, direct=True).close()
        can_direct = True
    except UnavailableError:
        can_direct = False
    trial.close()
    fs.unlink(path)
    return can_punch, can_direct
