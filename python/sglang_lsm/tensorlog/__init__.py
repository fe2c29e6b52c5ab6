"""The tensor log: page bytes in append-only segments, moved without a copy."""
