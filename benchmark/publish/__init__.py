"""What makes `benchmark/RESULTS.md` and its plots out of the JSON files of the benchmarks."""
