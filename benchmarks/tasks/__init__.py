"""Benchmark tasks: what is asked, and how its answers are graded."""
