"""Where benchmarks find real text and keep what they make."""

from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent
ROOT = BENCHMARKS.parent
RESULTS = BENCHMARKS / "results"
CACHE = BENCHMARKS / "cache"
DATA = ROOT.parent / "shared" / "data"
