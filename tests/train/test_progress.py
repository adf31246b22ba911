"""A line of progress: what still runs counts, and what makes samples useless is said."""

from __future__ import annotations

from train.generation.progress import progress_line
from train.generation.worker import Tally
from train.samples import Sample


def tally(*samples: Sample, running: int = 0) -> Tally:
    counted = Tally(running=running)
    for sample in samples:
        counted.count(sample)
    return counted


def sample(**changed: object) -> Sample:
    return Sample(id="p", index=0, num_tokens=40, **changed)  # type: ignore[arg-type]


def test_before_the_first_sample_is_finished() -> None:
    line = progress_line(0, 160, tally(running=800), seconds=10, max_tokens=40)
    assert line == "0/160 samples (0.0%), 0.0 samples/s, 80 tokens/s, at most 0:01:10 left"


def test_cut_and_unanswered_samples_are_shares() -> None:
    drawn = tally(
        sample(finish_reason="length", correct=False),
        sample(finish_reason="repetition", correct=False),
        sample(answer="7", correct=True),
        sample(answer="8", correct=False),
        sample(finish_reason="error"),
    )
    line = progress_line(5, 9, drawn, seconds=4, max_tokens=99)
    assert "50.0% cut at max_tokens, 50.0% without an answer, 25.0% right, 1 failed" in line


def test_the_time_left_counts_what_runs_and_who_else_works() -> None:
    drawn = tally(*[sample(answer="7")] * 10, running=200)
    alone = progress_line(10, 30, drawn, seconds=60, max_tokens=99)
    assert alone.endswith(
        "10 tokens/s, 0.0% cut at max_tokens, 0.0% without an answer, 0:01:00 left"
    )
    shared = progress_line(20, 40, drawn, seconds=60, max_tokens=99, others=10)
    assert shared.endswith("0:00:30 left")
    assert "left" not in progress_line(30, 30, drawn, seconds=60, max_tokens=99)
