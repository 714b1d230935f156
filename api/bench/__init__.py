"""Benchmarks: `exchange bench NAME --json` runs a workload and prints figures, never a verdict."""
