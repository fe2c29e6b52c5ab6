"""The radix cache of a server with a disk tier: SGLang's own, with complete radix paths on reads.

Imported in scheduler processes only, when the cache is built.
"""

from typing import Any

from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache


class LsmRadixCache(UnifiedRadixCache):  # type: ignore[misc]
    """Name pages by their whole radix path when the disk tier is asked for them.

    Upstream passes the hashes of a node's ancestors as `prefix_keys`, on writes starting from the
    parent of the written node, which is the whole path before it. On reads it starts from the
    deepest node that matched and so leaves out that node's own pages: a page would be looked for
    at another place than it was written to. Both reading calls are repaired here, where the tree is
    at hand; the storage backend cannot tell.

    Owned by the scheduler thread, as upstream.
    """

    def prefetch_from_storage(
        self,
        request: Any,
        last_host_node_id: int,
        new_input_tokens: Any,
        last_hash: str | None = None,
        prefix_keys: list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> bool | None:
        """Start reading the pages after `last_host_node_id`. Contract: upstream's."""
        complete = self._complete_prefix(last_host_node_id, prefix_keys)
        return super().prefetch_from_storage(  # type: ignore[no-any-return]
            request, last_host_node_id, new_input_tokens, last_hash, complete, *args, **kwargs
        )

    def query_storage_hit_length(
        self,
        last_host_node_id: int,
        new_input_tokens: Any,
        last_hash: str | None = None,
        prefix_keys: list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> int:
        """Return how many tokens after `last_host_node_id` are stored. Contract: upstream's."""
        complete = self._complete_prefix(last_host_node_id, prefix_keys)
        return super().query_storage_hit_length(  # type: ignore[no-any-return]
            last_host_node_id, new_input_tokens, last_hash, complete, *args, **kwargs
        )

    def _complete_prefix(self, node_id: int, prefix_keys: list[str] | None) -> list[str] | None:
        """Return the hashes from the root up to and including the node's own.

        A list even at the root: upstream takes None for "unknown" and then stops extending it from
        one batch of 128 pages to the next.
        """
        if not self.hicache_storage_pass_prefix_keys:
            return prefix_keys
        ancestors = self.tree_core.get_prefix_hash_values(node_id)
        return [*ancestors, *self.tree_core.get_hash_values(node_id)]
