"""Lookup decoding as tests switch it on: whatever can be proposed is verified."""

from __future__ import annotations


class FreeRows:
    """`StepCosts` of a device on which every step takes the same time, so drafts always pay."""

    draft_seconds = 0.0
    token_seconds = 0.0

    def row_seconds(self, rows: int) -> float:
        return 1.0


FREE = FreeRows()
SPECULATION = (
    None,
    {"method": "ngram"},
    {"num_speculative_tokens": 1},
    {"num_speculative_tokens": 20},
)
