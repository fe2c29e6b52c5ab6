"""Make the benchmarks importable: they are run from the repository root and never installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
