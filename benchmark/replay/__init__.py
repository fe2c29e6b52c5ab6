"""Replay of request traces at the level of page keys: traces, caches, the offline optimum."""
