"""The sampling kernels equal their reference, and keep guarantees that it does not test.

Kernel and reference round their sums differently, so a draw next to a boundary may fall on either
side of it. These tests avoid such draws in two ways. Either all sums are exact, because the
weights are 1 and 0; or logits lie on a grid, and parameters are chosen, in float64, to stay clear
of boundaries.

Every test takes the kernels from a fixture. Here they are those of Triton; test_cpu_sampling.py
runs the same tests with those of a CPU.
"""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csrc_triton import reference

MARGIN = 1e-4

prove = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def kernels(device):
    from csrc_triton import logprobs, sampling  # needs triton

    return SimpleNamespace(
        sample=lambda *args: sampling.sample(*(x.to(device) for x in args)).cpu(),
        token_logprobs=lambda *args: logprobs.token_logprobs(*(x.to(device) for x in args)).cpu(),
    )


def plain(rows, **columns):
    """(temperature, top_k, top_p, min_p, seeds, indices), sampling without truncation."""
    defaults = {
        "temperature": torch.ones(rows),
        "top_k": torch.zeros(rows, dtype=torch.int64),
        "top_p": torch.ones(rows),
        "min_p": torch.zeros(rows),
        "seeds": torch.arange(rows),
        "indices": torch.zeros(rows, dtype=torch.int64),
    }
    return tuple((defaults | columns).values())


def on_a_grid(rows, vocab):
    """Logits that are multiples of 1/8, with many ties; some are -inf, a whole block among them."""
    logits = torch.randn(rows, vocab).mul(24).round().div(8)
    logits[torch.rand(rows, vocab) < 0.1] = -torch.inf
    logits[0, 512:1024] = -torch.inf
    logits[:, vocab // 3] = 0.0
    return logits


def pick(choices):
    return choices[int(torch.randint(len(choices), ()))]


def clear_rules(logits):
    """Random parameters of one row; no cut-off and no draw is within MARGIN of a boundary."""
    temperature = pick([0.0, 0.05, 0.4, 1.0, 1.6])
    weights = ((logits.double() - logits.max()) / max(temperature, 1e-6)).exp()
    kept = weights.sort(descending=True).values
    top_k, top_p, min_p = pick([0, 0, 1, 3, 40, 400, 10**6]), 1.0, 0.0
    if 0 < top_k < len(kept):
        kept = kept[kept >= kept[top_k - 1]]
    bounds = torch.cat((torch.zeros(1), kept.cumsum(0) / kept.sum()))
    wide = (bounds.diff() > MARGIN).nonzero().squeeze(1)
    if pick([True, False]):
        place = pick(wide)
        top_p = float(bounds[place : place + 2].mean())
        kept = kept[kept >= kept[place]]
    levels = kept[kept > MARGIN].unique()
    if pick([True, False]) and len(levels) > 1:
        place = int(torch.randint(len(levels) - 1, ()))
        min_p = float(levels[place : place + 2].prod().sqrt())
        kept = kept[kept >= min_p]
    cdf = torch.where(weights >= kept[-1], weights, 0.0).cumsum(0)
    seeds, indices = torch.randint(-(2**62), 2**62, (64,)), torch.randint(0, 2**40, (64,))
    u = reference.uniform(seeds, indices).double()
    clear = (u[:, None] - cdf / cdf[-1]).abs().amin(1).gt(MARGIN).nonzero().squeeze(1)
    return temperature, top_k, top_p, min_p, int(seeds[clear[0]]), int(indices[clear[0]])


def seed_near_one():
    """A seed whose uniform number is above 0.999, so that it draws the last kept token."""
    return reference.uniform(torch.arange(4096), torch.zeros(4096).long()).argmax()[None]


def check_clear_rows(logits, kernels):
    args = [torch.tensor(column) for column in zip(*map(clear_rules, logits), strict=True)]
    assert torch.equal(kernels.sample(logits, *args), reference.sample(logits, *args))


@prove
@given(
    rows=st.integers(1, 4),
    vocab=st.sampled_from([2, 100, 511, 512, 513, 1024, 1700]),
    seed=st.integers(0, 2**32),
)
def test_kernel_equals_reference(rows, vocab, seed, dtype, kernels):
    torch.manual_seed(seed)
    check_clear_rows(on_a_grid(rows, vocab).to(dtype), kernels)


def test_more_blocks_than_tokens_to_keep(kernels):
    torch.manual_seed(1)
    check_clear_rows(on_a_grid(5, 20 * 512 + 37), kernels)


def test_the_last_token_kept(kernels):
    """Weights fall with the id, each by a factor of exp(-1/64); a number near 1 draws the last."""
    keeps = torch.tensor([1, 2, 3, 5, 9, 20, 33, 47, 60, 90, 140])
    n, none = len(keeps), torch.zeros(len(keeps))
    logits = torch.arange(700) / -64
    weights = logits.double().exp()
    mass = torch.cat((torch.zeros(1), weights.cumsum(0) / weights.sum()))
    args = plain(
        3 * n,
        top_k=torch.cat((keeps, none.long(), none.long())),
        top_p=torch.cat((none + 1, mass[keeps - 1].add(mass[keeps]).float() / 2, none + 1)),
        min_p=torch.cat((none, none, weights[keeps - 1].mul(weights[keeps]).sqrt().float())),
        seeds=seed_near_one().expand(3 * n).contiguous(),
    )
    ids = kernels.sample(logits.expand(3 * n, -1), *args)
    assert torch.equal(ids, keeps.sub(1).repeat(3))


@pytest.mark.parametrize(("top_k", "last"), [(300, 3), (5, 1)])
def test_top_p_counts_what_top_k_keeps(top_k, last, kernels):
    """Top-p takes its share of the mass that top-k keeps, even if the first block alone has enough.

    The eight highest tokens weigh 6.5 together, 500 others 1.8. With top-k 300, top-p 0.36 of all
    8.3 keeps four tokens. With top-k 5, top-p 0.36 of the five highest, 4.4, keeps two. Counting
    only the eight highest, 6.5, would keep three.
    """
    logits = torch.full((1, 1536), -9.0)
    logits[0, 8:512] = -torch.inf
    logits[0, :8] = torch.arange(8) / -16
    logits[0, 512:1012] = -5.6
    rules = {"top_k": torch.tensor([top_k]), "top_p": torch.tensor([0.36])}
    assert kernels.sample(logits, *plain(1, **rules, seeds=seed_near_one())).tolist() == [last]


def test_top_k_may_keep_one_token_of_each_block(kernels):
    logits = torch.full((1, 1536), -torch.inf)
    logits[0, [5, 600, 1100, 1200]] = torch.tensor([0.0, 0.0, -4.0, -9.0])
    args = plain(1, top_k=torch.tensor([3]), seeds=seed_near_one())
    assert kernels.sample(logits, *args).tolist() == [1100]


def test_full_blocks_of_a_large_vocabulary(kernels):
    """Three blocks of 2048 are packed whole; a token of their second halves weighs e times more."""
    logits = torch.full((1, 128 * 1024 + 1), -torch.inf)
    logits[0, : 3 * 2048] = torch.tensor([-1.0, 0.0]).repeat_interleave(1024).repeat(3)
    args = plain(1, top_p=torch.tensor([0.7]))
    kept = (logits[0] == 0).nonzero().squeeze(1)
    expected = kept[int(reference.uniform(*args[-2:]) * len(kept))]
    assert kernels.sample(logits, *args).tolist() == [int(expected)]


def test_the_hash_is_the_references(kernels):
    """With 2048 equal weights all sums are exact, and the token must be floor(2048 u)."""
    rows = 32
    seeds, indices = torch.randint(-(2**62), 2**62, (rows,)), torch.randint(0, 2**40, (rows,))
    ids = kernels.sample(torch.zeros(rows, 2048), *plain(rows, seeds=seeds, indices=indices))
    assert torch.equal(ids, (reference.uniform(seeds, indices) * 2048).long())


@pytest.mark.parametrize("temperature", [1e-30, 0.01, 1.0, 1e4, 1e30])
def test_every_rule_keeps_all_of_equals(temperature, kernels):
    """Weights are 1 and 0; the token must be the one of rank floor(u * number of ones)."""
    vocab, rules = (
        1900,
        torch.tensor([[0, 1.0, 0.0], [1, 1, 0], [0, 0.01, 0], [0, 1, 1], [3, 0.5, 1]]),
    )
    torch.manual_seed(3)
    logits = torch.where(torch.rand(5, vocab) < 0.3, 7.0, -torch.inf)
    logits[:, 1024:1536] = -torch.inf
    if temperature < 1:
        logits[:, ::5] = 6.0  # a weight of zero
    seeds = torch.randint(-(2**62), 2**62, (5,))
    args = plain(
        5,
        temperature=torch.full((5,), temperature),
        top_k=rules[:, 0].long(),
        top_p=rules[:, 1].contiguous(),
        min_p=rules[:, 2].contiguous(),
        seeds=seeds,
    )
    highest = [(row == 7).nonzero().squeeze(1) for row in logits]
    u = reference.uniform(seeds, torch.zeros_like(seeds))
    expected = [int(ids[int(x * len(ids))]) for ids, x in zip(highest, u, strict=True)]
    assert kernels.sample(logits, *args).tolist() == expected


def test_a_temperature_without_end_makes_all_weights_one(kernels):
    logits = torch.randn(3, 1024)
    hot = plain(3, temperature=torch.full((3,), 1e30), top_p=torch.tensor([1.0, 0.4, 1.0]))
    u = reference.uniform(*hot[-2:])
    assert torch.equal(kernels.sample(logits, *hot), (u * 1024).long())


def test_there_is_a_least_temperature(kernels):
    logits = torch.full((1, 100), -torch.inf)
    logits[0, :2] = torch.tensor([0.0, -1e-6])  # a weight of 1 / e
    args = plain(1, temperature=torch.tensor([1e-30]), seeds=seed_near_one())
    assert kernels.sample(logits, *args).tolist() == [1]


def test_greedy_takes_the_lowest_of_equals_in_any_block(dtype, kernels):
    logits = torch.randn(3, 1700).to(dtype)
    logits[1, [600, 700, 1699]] = 9.0
    logits[2, :] = -torch.inf
    logits[2, [1030, 1031]] = -3.0
    greedy = plain(3, temperature=torch.zeros(3), top_k=torch.tensor([0, 5, 0]))
    assert kernels.sample(logits, *greedy).tolist() == [int(logits[0].argmax()), 600, 1030]


def test_rows_that_are_not_contiguous(kernels):
    torch.manual_seed(0)
    logits = on_a_grid(3, 1300)
    strided, wider = logits.t().contiguous().t(), torch.cat((logits, logits), 1)[:, :1300]
    args = plain(3, top_k=torch.tensor([0, 9, 0]), top_p=torch.tensor([1.0, 1.0, 0.8]))
    expected = kernels.sample(logits, *args)
    assert torch.equal(kernels.sample(strided, *args), expected)
    assert torch.equal(kernels.sample(wider, *args), expected)


@pytest.mark.parametrize("top_p", [1.0, 0.999999])
def test_the_ends_of_the_cdf_fall_on_possible_tokens(top_p, kernels):
    seeds = torch.arange(1 << 18)
    u = reference.uniform(seeds, torch.zeros_like(seeds))
    extremes = torch.cat((u.topk(4).indices, u.topk(4, largest=False).indices))
    logits = torch.full((8, 1100), -torch.inf)
    logits[:, 20:1050] = torch.randn(8, 1030) * 9
    ids = kernels.sample(logits, *plain(8, seeds=extremes, top_p=torch.full((8,), top_p)))
    assert bool(logits.gather(1, ids[:, None]).isfinite().all())


@pytest.mark.parametrize("columns", [slice(None), slice(3, 4), slice(530, None)], ids=str)
def test_a_row_that_is_not_finite_disturbs_nobody(columns, kernels):
    vocab = 600
    logits = torch.randn(3, vocab, generator=torch.Generator().manual_seed(0)) * 9
    args = plain(
        3,
        temperature=torch.tensor([1.0, 0.0, 1.0]),
        top_k=torch.tensor([0, 0, 5]),
        top_p=torch.tensor([1.0, 1.0, 0.9]),
        min_p=torch.tensor([0.0, 0.0, 0.1]),
    )
    rows = logits.repeat_interleave(4, 0)
    for kind, bad in enumerate((torch.nan, torch.inf, -torch.inf), start=1):
        rows[kind::4, columns] = bad
    ids = kernels.sample(rows, *(x.repeat_interleave(4) for x in args))
    assert torch.equal(ids[::4], kernels.sample(logits, *args))
    assert bool(((ids >= 0) & (ids < vocab)).all())


@pytest.mark.parametrize("vocab", [1, 300, 1025])
def test_logprobs_equal_the_references(vocab, dtype, kernels):
    torch.manual_seed(vocab)
    logits = (torch.randn(4, vocab) * 5).to(dtype)
    logits[1, : vocab - 1] = -torch.inf
    logits[2] -= 600  # exp underflows to 0 unless it is relative to the row's maximum
    token_ids = torch.tensor([0, vocab - 1, vocab // 2, vocab - 1])
    expected = reference.token_logprobs(logits, token_ids)
    assert expected.isfinite().all()
    torch.testing.assert_close(kernels.token_logprobs(logits, token_ids), expected)
    strided = logits.t().contiguous().t()
    torch.testing.assert_close(kernels.token_logprobs(strided, token_ids), expected)


def test_logprobs_of_a_row_that_is_not_finite(kernels):
    logits = torch.randn(7, 1100)
    logits[0, 1050] = float("nan")
    logits[1, 5] = float("inf")
    logits[2, 600:605] = float("inf")
    logits[3] = -torch.inf
    logits[4, 3] = -torch.inf
    logits[5, 512:1024] = -torch.inf
    logits[0, 512:] -= 500  # the other weights of the NaN's block are negligible
    logprob = kernels.token_logprobs(logits, torch.full((7,), 3))
    assert logprob.isfinite().tolist() == [False] * 5 + [True] * 2
    torch.testing.assert_close(logprob[5:], logits[5:].log_softmax(-1)[:, 3])
