"""Names of pages that nobody can find any more, and how their room is given back.

A name given after an update of weights is of one process and one update alone; a store has one
process, so that all such names but its present ones are dead.
"""

import json
import threading
import uuid
from collections.abc import Callable, Collection

from sglang_lsm.pages import NamespaceId
from sglang_lsm.store import Store

_UPDATED = "-updated-"
"""Stands in such a name of a model, and in no digest of weights at a path."""


def name_for_update(model: str) -> str:
    """Return a new name for `model`, whose weights were changed while it is served."""
    return f"{model.partition(_UPDATED)[0]}{_UPDATED}{uuid.uuid4().hex}"


def ends_with_process(model: str) -> bool:
    """Return whether the name of a model is one of `name_for_update`."""
    return _UPDATED in model


def forget_dead_names(store: Store, present: Callable[[], Collection[NamespaceId]]) -> None:
    """Give back the room of pages with dead names.

    Args:
        store: of this process.
        present: tells the names in use, before they are registered with the store. Any thread.

    Raises:
        UnavailableError, ClosedError.
    """
    for namespace, fingerprint in store.fingerprints().items():
        # Asked each time: a name may end meanwhile, and once it has it never comes back.
        is_own = ends_with_process(json.loads(fingerprint)["model"])
        if is_own and namespace not in present():
            store.clear(namespace)


def in_background(action: Callable[[], None]) -> threading.Thread:
    """Run `action` on a thread that nobody waits for."""
    thread = threading.Thread(target=action, name="kv-storage-forget", daemon=True)
    thread.start()
    return thread
