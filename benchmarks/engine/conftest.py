"""Engines in the middle of their work; the microbenchmarks time their parts."""

from __future__ import annotations

import random

import pytest

from benchmarks.stub_runner import stub_engine
from gsr_engine import Engine, SamplingParams
from gsr_engine.demo.report import NANO

SIBLINGS = 4
"""Streams per group."""
_STREAMS = 512
_TOKENS = 1500
"""More than the rounds of any benchmark, so that no stream finishes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many streams run."""
    parser.addoption("--streams", type=int, default=_STREAMS, help="running streams, 4 to a group")


@pytest.fixture
def streams(request: pytest.FixtureRequest) -> int:
    """How many streams run."""
    # The option is unknown to a run that names a folder above this one.
    return int(request.config.getoption("--streams", default=_STREAMS))


def random_prompts(count: int, length: int, shared: int = 0) -> list[list[int]]:
    """Prompts of nano's plain tokens that agree in the first `shared` of them."""
    rng = random.Random(0)
    first = [rng.randrange(6, 441) for _ in range(shared)]
    return [
        [*first, *(rng.randrange(6, 441) for _ in range(length - shared))] for _ in range(count)
    ]


def start_decoding(engine: Engine, streams: int) -> Engine:
    """Submit groups of siblings and step until all of them decode."""
    params = SamplingParams(n=SIBLINGS, max_tokens=_TOKENS, ignore_eos=True, seed=0)
    for index, prompt in enumerate(random_prompts(streams // SIBLINGS, 32)):
        engine.submit(engine.new_generate(prompt, params, index=index))
    for _ in range(3):
        engine.step()
    return engine


@pytest.fixture
def decoding(streams: int) -> Engine:
    """An engine with a stub for its model; all its streams decode."""
    return start_decoding(stub_engine(max_num_seqs=streams), streams)


@pytest.fixture
def nano(streams: int) -> Engine:
    """An engine with nano; all its streams decode."""
    engine = Engine.from_pretrained(NANO, dtype="float32", max_num_seqs=streams)
    return start_decoding(engine, streams)
