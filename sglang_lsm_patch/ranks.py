"""Which ranks write. Each has a store of its own, which no other process can open."""

import dataclasses
from typing import Any


def let_this_rank_write(controller: Any) -> bool:
    """See to it that SGLang's backup thread writes on this rank too; return whether that changes.

    Where KV is the same on all ranks (MLA), SGLang writes it on the first alone, for stores that
    ranks share. Here the others would never hit, and with them, since the shortest counts, none.

    Args:
        controller: SGLang's `HiCacheController` with a storage backend attached.
    """
    config = controller.storage_config
    if config.is_storage_writer:
        return False
    # Of this config `is_storage_writer` alone looks at the field; the controller has it to itself.
    controller.storage_config = dataclasses.replace(config, is_mla_model=False)
    return True
