"""A process that puts paths into a store and says so, until it is killed.

Arguments: the directory, and the number of the first path. Prints a line for each path it was told
is stored.
"""

import sys
from itertools import count
from pathlib import Path

from sglang_lsm.store import Store
from support.page_maker import fingerprint, pages_of, path_of, small_config

PIECES = (9000, 9000)
NUM_PAGES = 3


def main(directory: str, first: str) -> None:
    store = Store.open(Path(directory), small_config(64))
    namespace = store.register(fingerprint())
    for number in count(int(first)):
        path = path_of(namespace, [number] * NUM_PAGES)
        store.put_batch(path, pages_of(path, PIECES))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
