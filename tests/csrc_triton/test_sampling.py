"""The sampler: hash, distribution, truncation rules; no row depends on another row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import csrc_triton
from csrc_triton import reference

pytestmark = pytest.mark.slow

prove = settings(deadline=None, derandomize=True)
# The plain reference, and the kernels of a CPU.
implementations = pytest.mark.parametrize(
    "module", [reference, csrc_triton], ids=["reference", "kernels"]
)
WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % WORD
    return z ^ z >> 31


def uniform_by_hand(seed, index):
    """The documented formula in Python integers."""
    return (mix((mix((seed + GOLDEN) % WORD) + (index + 1) * GOLDEN) % WORD) >> 40) / 2**24


def index_that_draws(u, seed):
    """The documented formula backwards: the index at which a seed draws a number."""

    def unshifted(z, bits):
        x = z
        for _ in range(64 // bits):
            x = z ^ x >> bits
        return x

    z = unshifted(int(u * 2**24) << 40, 31) * pow(0x94D049BB133111EB, -1, WORD) % WORD
    z = unshifted(z, 27) * pow(0xBF58476D1CE4E5B9, -1, WORD) % WORD
    steps = (unshifted(z, 30) - mix((seed + GOLDEN) % WORD)) * pow(GOLDEN, -1, WORD)
    return (steps - 1 + WORD // 2) % WORD - WORD // 2  # as an int64


def draw(module, logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seeds=None, indices=None):
    """`sample` with one number for all rows, or a list with a number for each row."""
    rows = logits.shape[0]

    def column(value, dtype):
        values = value if isinstance(value, list) else [value] * rows
        return torch.tensor(values, dtype=dtype)

    return module.sample(
        logits,
        column(temperature, torch.float32),
        column(top_k, torch.int64),
        column(top_p, torch.float32),
        column(min_p, torch.float32),
        torch.arange(rows) if seeds is None else seeds,
        torch.zeros(rows, dtype=torch.int64) if indices is None else indices,
    )


def oracle(logits, temperature, top_k, top_p, min_p):
    """Probabilities after truncation, by sorting in float64, for logits without ties."""
    probs = (logits.double() / temperature).softmax(-1)
    order = probs.argsort(descending=True)
    ranked = probs[order]
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if top_k > 0:
        keep[top_k:] = False
    if top_p < 1:
        kept = ranked * keep / (ranked * keep).sum()
        keep &= kept.cumsum(0) - kept < top_p
    keep &= ranked >= min_p * ranked[0]
    truncated = torch.zeros_like(probs)
    truncated[order[keep]] = ranked[keep]
    return truncated / truncated.sum()


I64 = st.integers(-(2**63), 2**63 - 1)


@prove
@given(st.lists(st.tuples(I64, st.integers(0, 2**40)), min_size=1, max_size=20))
def test_uniform_is_the_documented_hash(pairs):
    seeds, indices = torch.tensor(pairs).unbind(1)
    u = csrc_triton.uniform(seeds, indices)
    assert u.dtype == torch.float32
    assert u.tolist() == [uniform_by_hand(seed, index) for seed, index in pairs]


def test_uniform_is_uniform_and_streams_of_near_seeds_are_unrelated():
    n = 1 << 12
    seeds, indices = torch.arange(n).repeat_interleave(16), torch.arange(16).repeat(n)
    u = csrc_triton.uniform(seeds, indices).view(n, 16).double()
    assert bool((u >= 0).all() and (u < 1).all())
    counts = torch.histc(u.flatten(), 64, 0, 1)
    expected = u.numel() / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 110  # chi², 63 degrees: p < 0.001
    # Neighbouring seeds, neighbouring indices, and seeds one increment of splitmix64 apart.
    shifted = csrc_triton.uniform(seeds + (0x9E3779B97F4A7C15 - WORD), indices).view(n, 16)
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1]), (u[:, 1:], shifted[:, :-1].double())):
        assert abs(float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])) < 0.015


@implementations
@prove
@given(st.integers(1, 12), st.integers(2, 1500), st.integers(0, 2**32), st.data())
def test_sampling_equals_a_sort_based_oracle(module, rows, vocab, seed, data):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * 3
    per_row = {
        "temperature": st.sampled_from([0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([0, 1, 2, 20, vocab, 2 * vocab]),
        "top_p": st.sampled_from([0.05, 0.51, 0.93, 1.0]),
        "min_p": st.sampled_from([0.0, 0.02, 0.3]),
    }
    rules = {name: [data.draw(s) for _ in range(rows)] for name, s in per_row.items()}
    seeds = torch.randint(-(2**62), 2**62, (rows,), generator=generator)
    ids = draw(module, logits, **rules, seeds=seeds)
    u = csrc_triton.uniform(seeds, torch.zeros_like(seeds)).tolist()
    for row, token in enumerate(ids.tolist()):
        probs = oracle(logits[row], *(rules[name][row] for name in per_row))
        cdf = probs.cumsum(0).tolist()
        assert probs[token] > 0
        assert (cdf[token - 1] if token else 0) - 1e-5 <= u[row] <= cdf[token] + 1e-5


@implementations
@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 4},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"top_k": 6, "top_p": 0.7},
    ],
    ids=str,
)
def test_draws_have_the_right_distribution(rules, module):
    rows = 40_000
    logits = torch.tensor([0.3, -1.0, 2.0, 1.1, -torch.inf, 0.0, 1.9, -2.5, 0.9, -0.2])
    ids = draw(module, logits.expand(rows, -1), **rules)
    settings_of = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | rules
    expected = oracle(logits, **settings_of) * rows
    counts = torch.bincount(ids, minlength=10)
    possible = expected > 0
    assert not counts[~possible].any()
    chi2 = ((counts - expected) ** 2 / expected)[possible].sum()
    assert float(chi2) < 27.9  # 9 degrees of freedom: p < 0.001


@implementations
@prove
@given(st.integers(0, 2**32), st.sampled_from([7, 512, 513, 3000]))
def test_a_row_does_not_depend_on_the_others(module, seed, vocab):
    rows = 6
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator).mul(4).round(decimals=1)  # with ties
    args = (
        torch.tensor([0.0, 1.0, 0.8, 1.0, 1.5, 1.0]),
        torch.tensor([0, 0, 5, 600, 0, 0]),
        torch.tensor([1.0, 1.0, 0.9, 0.9, 0.999, 1.0]),
        torch.tensor([0.0, 0.0, 0.0, 0.0, 0.01, 0.1]),
        torch.randint(-(2**62), 2**62, (rows,), generator=generator),
        torch.arange(rows),
    )
    together = module.sample(logits, *args)
    for row in range(rows):
        alone = module.sample(logits[row : row + 1], *(x[row : row + 1] for x in args))
        assert int(alone) == int(together[row])
    order = torch.randperm(rows, generator=generator)
    shuffled = module.sample(logits[order], *(x[order] for x in args))
    assert torch.equal(shuffled, together[order])


@implementations
def test_temperature_zero_is_argmax_and_takes_the_lowest_of_equals(module):
    logits = torch.zeros(3, 2000)
    logits[1, [700, 1500]] = 5.0
    logits[2, 1999] = 1.0
    assert draw(module, logits, temperature=0.0).tolist() == [0, 700, 1999]
    assert draw(module, logits, temperature=[1.0, 0.0, 0.0]).tolist()[1:] == [700, 1999]


@implementations
def test_hardly_any_temperature_is_greedy_and_finite(module):
    logits = torch.randn(5, 100) * 100
    assert torch.equal(draw(module, logits, temperature=1e-30), logits.argmax(-1))


@implementations
def test_tokens_tied_with_the_last_one_kept_are_kept(module):
    logits = torch.tensor([3.0, 1.0, 2.0, 2.0, 2.0, 0.0]).expand(400, -1)
    assert set(draw(module, logits, top_k=2).tolist()) == {0, 2, 3, 4}
    assert set(draw(module, logits, top_p=0.6).tolist()) == {0, 2, 3, 4}


@implementations
def test_truncation_deeper_than_what_is_looked_at_first(module):
    flat = torch.zeros(1, 4000)
    kept = {int(draw(module, flat, top_k=1, seeds=torch.tensor([seed]))) for seed in range(50)}
    assert max(kept) > 2000  # all are tied with the highest
    slope = torch.arange(4000.0).mul(-0.001).expand(300, -1)
    assert 500 < int(draw(module, slope, top_k=600).max()) < 600
    # The first 675 tokens hold half of the mass; 352 hold half of what the first 900 hold.
    assert 500 < int(draw(module, slope, top_p=0.5).max()) < 675
    assert 300 < int(draw(module, slope, top_p=0.5, top_k=900).max()) < 352


@implementations
@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-24])
def test_the_ends_of_the_cdf_fall_on_possible_tokens(u, module):
    """This also holds if sums of blocks and sums inside a block round differently."""
    seeds = torch.arange(200)
    indices = torch.tensor([index_that_draws(u, seed) for seed in range(200)])
    assert bool((csrc_triton.uniform(seeds, indices) == u).all())
    for vocab in (6, 600, 1024, 5000):
        logits = torch.randn(200, vocab)
        logits[:, vocab // 2 :] = -torch.inf
        logits[:, 0] = -torch.inf
        ids = draw(module, logits, indices=indices)
        assert bool(logits.gather(1, ids[:, None]).isfinite().all())


@implementations
def test_a_number_on_a_boundary_draws_the_token_behind_it(module):
    seed = torch.tensor([3])
    for vocab, u in ((2, 0.5), (1024, 0.25), (2048, 0.25)):  # within a block, and between two
        index = torch.tensor([index_that_draws(u, 3)])
        assert draw(module, torch.zeros(1, vocab), seeds=seed, indices=index).item() == u * vocab


@pytest.mark.parametrize(
    ("module", "kind"),
    [(reference, torch.bfloat16), (reference, torch.float16), (csrc_triton, torch.bfloat16)],
)
def test_narrow_logits_are_computed_in_fp32_and_left_as_they_were(module, kind):
    logits = torch.randn(50, 300).to(kind)
    before = logits.clone()
    assert torch.equal(draw(module, logits, top_p=0.9), draw(module, logits.float(), top_p=0.9))
    assert torch.equal(logits, before)


def test_no_rows_and_bad_shapes():
    assert draw(csrc_triton, torch.empty(0, 10)).shape == (0,)
    with pytest.raises(ValueError, match="V"):
        draw(csrc_triton, torch.empty(3, 0))
    with pytest.raises(ValueError, match="per row"):
        draw(csrc_triton, torch.ones(3, 5), seeds=torch.arange(2))


@implementations
@pytest.mark.parametrize("vocab", [7, 300, 2000])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_disturbs_nobody(vocab, bad, module):
    logits = torch.randn(6, vocab, generator=torch.Generator().manual_seed(0))
    rules = {
        "temperature": [1.0, 0.0, 1.0, 2.0, 0.5, 1.0],
        "top_k": [0, 0, 5, 3, 0, 600],
        "top_p": [1.0, 1.0, 0.9, 0.5, 1.0, 0.99],
        "min_p": [0.0, 0.0, 0.1, 0.0, 0.2, 0.0],
    }
    expected = draw(module, logits, **rules)
    for row in range(6):
        for columns in (slice(None), slice(3, 4)):
            broken = logits.clone()
            broken[row, columns] = bad
            ids = draw(module, broken, **rules)
            assert 0 <= ids[row] < vocab
            others = torch.arange(6) != row
            assert torch.equal(ids[others], expected[others])


@implementations
def test_logprobs_are_those_of_the_softmax_in_fp32(module):
    logits = torch.randn(6, 700) * 4
    token_ids = torch.tensor([0, 1, 2, 350, 698, 699])
    logits[2, :2] = -torch.inf
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        narrow = logits.to(kind)
        expected = narrow.float().log_softmax(-1).gather(1, token_ids[:, None]).squeeze(1)
        found = module.token_logprobs(narrow, token_ids)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)


@implementations
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logprobs_tell_of_a_row_that_is_not_finite(bad, module):
    logits = torch.randn(3, 50)
    logits[1, 20] = bad
    logprobs = module.token_logprobs(logits, torch.tensor([1, 2, 3]))
    assert logprobs.isfinite().tolist() == [True, False, True]


def test_logprobs_of_no_rows_and_bad_shapes():
    none = torch.empty(0, dtype=torch.int64)
    assert csrc_triton.token_logprobs(torch.empty(0, 10), none).shape == (0,)
    with pytest.raises(ValueError, match="V"):
        csrc_triton.token_logprobs(torch.empty(0, 0), none)
    with pytest.raises(ValueError, match="per row"):
        csrc_triton.token_logprobs(torch.ones(3, 5), none)
