"""The sampling kernel against its reference, and its own guarantees."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csrc_triton import reference, sampling

prove = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def kernel(device, *args):
    return sampling.sample(*(x.to(device) for x in args)).cpu()


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


@prove
@given(rows=st.integers(1, 4), vocab=st.integers(2, 300), seed=st.integers(0, 2**32))
def test_kernel_equals_reference(rows, vocab, seed, dtype, device):
    torch.manual_seed(seed)
    logits = (torch.randn(rows, vocab) * 3).to(dtype)
    args = (
        torch.tensor([0.0, 0.4, 1.0, 1.6])[torch.randint(0, 4, (rows,))],
        torch.tensor([0, 1, 7, 400])[torch.randint(0, 4, (rows,))],
        torch.tensor([0.1, 0.52, 0.93, 1.0])[torch.randint(0, 4, (rows,))],
        torch.tensor([0.0, 0.0, 0.04, 0.3])[torch.randint(0, 4, (rows,))],
        torch.randint(-(2**62), 2**62, (rows,)),
        torch.randint(0, 2**40, (rows,)),
    )
    assert torch.equal(kernel(device, logits, *args), reference.sample(logits, *args))


def test_the_hash_is_the_references(device):
    """Over 2048 equal weights, sums are exact and the token is floor(2048 u)."""
    rows = 64
    seeds, indices = torch.randint(-(2**62), 2**62, (rows,)), torch.randint(0, 2**40, (rows,))
    ids = kernel(device, torch.zeros(rows, 2048), *plain(rows, seeds=seeds, indices=indices))
    assert torch.equal(ids, (reference.uniform(seeds, indices) * 2048).long())


def test_rows_wider_than_a_block_and_not_contiguous(device):
    torch.manual_seed(0)
    logits = torch.randn(5000, 3).t()
    logits[0, [2500, 4999]] = 9.0  # equals in different blocks
    args = plain(3, temperature=torch.tensor([0.0, 1.0, 1.0]), top_k=torch.tensor([0, 0, 900]))
    assert torch.equal(kernel(device, logits, *args), reference.sample(logits, *args))


def test_ties_and_impossible_tokens(device):
    seeds = torch.arange(1 << 18)
    u = reference.uniform(seeds, torch.zeros_like(seeds))
    extremes = torch.cat((u.topk(8).indices, u.topk(8, largest=False).indices))
    logits = torch.full((16, 200), -torch.inf)
    logits[:, 20:150] = torch.randn(16, 130).round()
    ids = kernel(device, logits, *plain(16, seeds=extremes))
    assert bool(logits.gather(1, ids[:, None]).isfinite().all())
    greedy = plain(16, temperature=torch.zeros(16))
    assert torch.equal(kernel(device, logits, *greedy), logits.argmax(-1))
    one = plain(16, top_k=torch.ones(16, dtype=torch.int64))
    ids = kernel(device, logits, *one)  # ties with the highest are kept
    assert torch.equal(logits.gather(1, ids[:, None]).squeeze(1), logits.amax(-1))
