"""The LSM index: which pages are stored, and where. RocksDB underneath."""
