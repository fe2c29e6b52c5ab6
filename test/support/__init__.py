"""What several tests share: a disk that fails on demand, an index without RocksDB, page makers."""
