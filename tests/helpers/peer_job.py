"""A small job for a peer: two prompts, two candidates each, two refinements."""

from __future__ import annotations

from benchmarks.peers.job import Job

JOB = Job(
    model="nowhere",
    dtype="float32",
    threads=1,
    k=2,
    prompts=[[7, 8], [9, 10]],
    candidate_tokens=3,
    refine_prompts=[[7, 8, 11], [9, 10, 11, 12]],
    refine_tokens=5,
)
