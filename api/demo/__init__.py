"""The demonstration: one deal between real processes on this machine, on real data."""
