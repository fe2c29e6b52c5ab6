"""The content of one file of a fake disk: what is seen, what is synced, what lies in between."""

import random

BLOCK_BYTES = 4096
SECTOR_BYTES = 512


class Image:
    """Content and allocated blocks of a file at one moment."""

    def __init__(self, data: bytes = b"", blocks: frozenset[int] = frozenset()) -> None:
        self.data, self.blocks = bytearray(data), set(blocks)

    def copy(self) -> "Image":
        return Image(bytes(self.data), frozenset(self.blocks))

    def write(self, offset: int, content: bytes) -> None:
        if not content:
            return
        end = offset + len(content)
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.data[offset:end] = content
        self.blocks.update(range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)))

    def allocate(self, offset: int, num_bytes: int) -> None:
        end = offset + num_bytes
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.blocks.update(range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)))

    def truncate(self, num_bytes: int) -> None:
        del self.data[num_bytes:]
        self.data.extend(bytes(num_bytes - len(self.data)))
        self.blocks = {i for i in self.blocks if i * BLOCK_BYTES < num_bytes}

    def punch(self, offset: int, num_bytes: int) -> None:
        end = min(offset + num_bytes, len(self.data))
        self.data[offset:end] = bytes(max(0, end - offset))
        whole = range(-(-offset // BLOCK_BYTES), (offset + num_bytes) // BLOCK_BYTES)
        self.blocks.difference_update(whole)


class Inode:
    """A file: what the system sees, what the disk surely has, and the writes in between."""

    def __init__(self) -> None:
        self.current, self.synced = Image(), Image()
        self.pending: list[tuple[str, tuple[object, ...]]] = []

    def apply(self, action: str, *arguments: object) -> None:
        getattr(self.current, action)(*arguments)
        self.pending.append((action, arguments))

    def sync(self) -> None:
        self.synced, self.pending = self.current.copy(), []

    def lose_power(self, rng: random.Random) -> None:
        for action, arguments in self.pending:
            kept = rng.choice(["all", "none", "torn"])
            if kept == "torn" and action == "write":
                offset, content = arguments
                sectors = range(0, len(content), SECTOR_BYTES)
                at = rng.choice(sectors) if sectors else 0
                arguments = (offset, content[:at]) if rng.random() < 0.5 else (
                    offset + at, content[at:])  # fmt: skip
            if kept != "none":
                getattr(self.synced, action)(*arguments)
        self.current, self.pending = self.synced.copy(), []
