"""The sampling kernels of a CPU: the properties of Triton's, and hostile logits."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csrc_triton import reference
from csrc_triton.cpu import logprobs, sampling

# The tests of that file run here as well, with the fixture `kernels` below.
from tests.csrc_triton.test_kernels_sampling import *  # noqa: F403
from tests.csrc_triton.test_kernels_sampling import plain

pytestmark = pytest.mark.slow

prove = settings(deadline=None, derandomize=True, max_examples=150)


@pytest.fixture
def kernels():
    return SimpleNamespace(sample=sampling.sample, token_logprobs=logprobs.token_logprobs)


VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, -88.0, -103.0, 3e38, -3e38, 1e-40])
FAULTS = st.sampled_from([-math.inf, math.nan, math.inf])


@st.composite
def hostile_logits(draw):
    """Rows of one value with some cells of others, fp32 or bf16."""
    rows, vocab = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 17, 511, 513, 8200]))
    logits = torch.full((rows, vocab), draw(VALUES))
    for _ in range(draw(st.integers(0, 4))):
        row, begin = draw(st.integers(0, rows - 1)), draw(st.integers(0, vocab - 1))
        length = draw(st.sampled_from([1, 16, 600]))
        logits[row, begin : begin + length] = draw(VALUES | FAULTS)
    return logits.to(draw(st.sampled_from([torch.float32, torch.bfloat16])))


def rules(rows):
    """Parameters of `sample` for some rows."""
    column = {
        "temperature": st.sampled_from([0.0, 1e-30, 1e-6, 0.7, 1.0, 1e30]),
        "top_k": st.sampled_from([0, 1, 2, 40, 300, 2**40]),
        "top_p": st.sampled_from([1e-30, 0.3, 0.999999, 1.0]),
        "min_p": st.sampled_from([0.0, 1e-40, 0.5, 1.0]),
        "seeds": st.integers(-(2**63), 2**63 - 1),
    }
    return st.fixed_dictionaries(
        {name: st.lists(values, min_size=rows, max_size=rows) for name, values in column.items()}
    ).map(lambda found: plain(rows, **{name: torch.tensor(x) for name, x in found.items()}))


def weights_of(row, temperature):
    """The weights of a row in float64, relative to the highest."""
    best = row.double().max()
    if temperature == 0:
        return (row.double() == best).double()
    return ((row.double() - best) / max(temperature, 1e-6)).exp()


@prove
@given(logits=hostile_logits(), data=st.data())
def test_hostile_rows_draw_what_the_rules_keep_and_do_not_depend_on_company(logits, data):
    rows, vocab = logits.shape
    args = data.draw(rules(rows))
    ids = sampling.sample(logits, *args)
    assert bool(((ids >= 0) & (ids < vocab)).all())
    for row, token in enumerate(ids.tolist()):
        mine = [x[row : row + 1] for x in (logits, *args)]
        assert sampling.sample(*mine).item() == token
        if not (logits[row] < math.inf).all() or bool(logits[row].isneginf().all()):
            continue  # unspecified
        temperature, top_k, _, min_p = (float(x[row]) for x in args[:4])
        weights = weights_of(logits[row], temperature)
        assert weights[token] > 0
        assert weights[token] >= min_p * (1 - 1e-4) or temperature == 0
        if top_k > 0:
            kth = weights.sort(descending=True).values[min(int(top_k), vocab) - 1]
            assert weights[token] >= kth * (1 - 1e-4)
        if temperature == 0:
            assert token == int(weights.argmax())


@prove
@given(logits=hostile_logits(), data=st.data())
def test_hostile_rows_have_the_references_logprobs(logits, data):
    rows, vocab = logits.shape
    ids = torch.tensor(data.draw(st.lists(st.integers(0, vocab - 1), min_size=rows, max_size=rows)))
    found = logprobs.token_logprobs(logits, ids)
    expected = reference.token_logprobs(logits, ids)
    assert torch.equal(found.isfinite(), expected.isfinite())
    finite = expected.isfinite()
    torch.testing.assert_close(found[finite], expected[finite], rtol=1e-5, atol=2e-5)


def floor_of(weights, name, value):
    """The least weight that a single rule keeps, in float64."""
    ranked = weights.sort(descending=True).values
    if name == "min_p":
        return value
    place = value - 1 if name == "top_k" else (ranked.cumsum(0) / ranked.sum() < value).sum()
    return float(ranked[place])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_a_vocabulary_of_152_thousand(kind):
    """The least and the greatest number draw the first and the last tokens that the rules keep."""
    logits = torch.randn(1, 151_936, generator=torch.Generator().manual_seed(0)).mul(2.5).to(kind)
    weights = weights_of(logits[0], 1.0)
    u = reference.uniform(torch.arange(1 << 20), torch.zeros(1 << 20, dtype=torch.int64))
    seeds = torch.stack((u.argmin(), u.argmax()))
    tried = {"top_k": [1, 3, 50, 290, 400, 6000], "top_p": [0.01, 0.3, 0.9], "min_p": [0.5, 0.01]}
    for name, value in ((name, value) for name, values in tried.items() for value in values):
        kept = (weights >= floor_of(weights, name, value) * (1 - 1e-6)).nonzero().squeeze(1)
        args = plain(2, seeds=seeds, **{name: torch.tensor([value, value])})
        first, last = sampling.sample(logits.expand(2, -1), *args).tolist()
        assert first in kept[:3], (name, value)
        assert last in kept[-3:], (name, value)


def test_rows_at_any_distance_and_parameters_of_any_layout():
    logits = torch.randn(4, 3, 700)
    args = [x.expand(4) for x in plain(1, seeds=torch.tensor([5]))]
    found = sampling.sample(logits[:, 1], *args)
    assert torch.equal(found, sampling.sample(logits[:, 1].contiguous(), *plain(4, seeds=args[4])))
    ids = torch.tensor([1, 699, 0, 350])
    expected = reference.token_logprobs(logits[:, 1], ids)
    torch.testing.assert_close(logprobs.token_logprobs(logits[:, 1], ids), expected)


def test_the_number_of_threads_changes_no_bit():
    logits = torch.randn(5, 20_000) * 3
    args = plain(5, top_k=torch.tensor([0, 9, 0, 900, 0]), top_p=torch.tensor([1, 1, 0.9, 0.9, 1]))
    ids = torch.arange(5)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append((sampling.sample(logits, *args), logprobs.token_logprobs(logits, ids)))
    finally:
        torch.set_num_threads(before)
    for drawn, found in results[1:]:
        assert torch.equal(drawn, results[0][0])
        assert torch.equal(found, results[0][1])
