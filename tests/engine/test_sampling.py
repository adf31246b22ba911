"""Edits of logits before a draw, reported log-probabilities, and the ends of streams."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import RepetitionPenaltyLogitsProcessor

from gsr_engine import (
    Completion,
    Engine,
    InvalidRequest,
    RepetitionDetectionParams,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.checkpoint.generation_config import GenerationConfig
from gsr_engine.execution.logits import LogitEdits
from gsr_engine.execution.sampler import LastDraws, Sampler
from gsr_engine.kv.segments import Segment, Span
from gsr_engine.requests.request import Stream
from tests.engine.test_chat_checkpoint import scripted
from tests.helpers.checkpoints import load_oracle, make_checkpoint
from tests.helpers.steps import run_checked

pytestmark = pytest.mark.slow

VOCAB = 40
IM_START, IM_END = 1, 2
LOOPS = RepetitionDetectionParams(max_pattern_size=4, min_count=3)
prove = settings(deadline=None, derandomize=True, max_examples=100)
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=30)


def stream(prompt: list[list[int]], drawn: list[int], **params: Any) -> Stream:
    """A stream whose context holds a span of each of some segments."""
    context = tuple(Span(Segment([0, *ids, 1]), 1, 1 + len(ids)) for ids in prompt)
    segment = Segment(list(drawn), context=context)
    filled = GenerationConfig().fill(SamplingParams(**params))
    return Stream(0, filled, 7, dict.fromkeys((2, 3, VOCAB + 5)), segment)


def edited(logits: torch.Tensor, streams: list[Stream], before: Any = None) -> torch.Tensor:
    """The edited logits; checks that the original logits are restored afterwards."""
    edits = LogitEdits(streams, VOCAB, logits.device, before)
    original = logits.clone()
    with edits.applied(logits):
        inside = logits.clone()
    assert torch.equal(logits, original)
    return inside


@given(
    prompt=st.lists(TOKENS, max_size=3), drawn=TOKENS, penalty=st.sampled_from([0.5, 1.1, 1.7, 3.0])
)
@prove
def test_repetition_penalty_is_that_of_transformers(
    prompt: list[list[int]], drawn: list[int], penalty: float
) -> None:
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(len(drawn)))
    streams = [stream(prompt, drawn), stream(prompt, drawn, repetition_penalty=penalty)]
    seen = [token for ids in (*prompt, drawn) for token in ids]
    expected = logits.clone()
    if seen:
        theirs = RepetitionPenaltyLogitsProcessor(penalty)
        expected[1:] = theirs(torch.tensor([seen]), logits[1:].clone())
    assert torch.equal(edited(logits, streams), expected)


@given(
    drawn=TOKENS,
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    repetition=st.sampled_from([1.0, 1.5]),
    least=st.integers(0, 35),
    cut=st.integers(0, 30),
)
@prove
def test_all_together_by_a_plain_reference(
    drawn: list[int], presence: float, frequency: float, repetition: float, least: int, cut: int
) -> None:
    """Counts updated token by token equal those of a stream that is seen for the first time."""
    prompt = [5, 6, 6]
    params = {
        "presence_penalty": presence,
        "frequency_penalty": frequency,
        "repetition_penalty": repetition,
        "min_tokens": least,
    }
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(1))
    expected = logits.clone()
    for token in range(VOCAB):
        value = logits[1, token]
        if token in prompt or token in drawn:
            value = value / repetition if value > 0 else value * repetition
        value = value - presence * (token in drawn) - frequency * Counter(drawn)[token]
        expected[1, token] = value
    if len(drawn) < least:
        expected[1, 2:4] = float("-inf")
    mine = stream([prompt], drawn[:cut], **params)
    streams = [stream([], []), mine, stream([], [4] * cut)]
    before = LogitEdits(streams, VOCAB, logits.device)
    with before.applied(logits):
        pass
    mine.segment.token_ids.extend(drawn[cut:])
    torch.testing.assert_close(edited(logits, streams, before), expected)
    assert torch.equal(edited(logits, streams, before), edited(logits, streams))


def test_nobody_pays_who_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    edits = Mock(side_effect=AssertionError("nothing is to be edited"))
    monkeypatch.setattr("gsr_engine.execution.sampler.LogitEdits", edits)
    last = LastDraws(torch.zeros(2, dtype=torch.int64))
    sampler, logits = Sampler(last), torch.randn(2, VOCAB)
    plain = sampler.draw(logits, [0, 1], [stream([[1]], [2]), stream([], [])]).wait()
    assert plain.tops is None


def test_greedy_with_a_penalty_equals_transformers(qwen2: Path) -> None:
    oracle = load_oracle(qwen2)
    prompts = [[7, 8, 9, 8], [20] * 17, list(range(5, 60))]
    params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, repetition_penalty=1.4)
    with Engine.from_pretrained(qwen2) as engine:
        results = engine.generate(prompts, params)
    for prompt, result in zip(prompts, results, strict=True):
        expected = oracle.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=40,
            do_sample=False,
            repetition_penalty=1.4,
            eos_token_id=None,
        )
        assert result.completions[0].token_ids == expected[0, len(prompt) :].tolist()


def test_a_branched_refinement_is_penalised_for_every_span(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The penalty covers all tokens of the context: problem, candidates and instruction."""
    params = SelfRefineParams(
        k=2,
        layout="branched",
        force_layout=True,
        refine=SamplingParams(temperature=0.0, max_tokens=3, repetition_penalty=100.0),
    )
    with Engine.from_pretrained(qwen2) as engine:
        texts = ["42 apples", "7 pears"]
        request = engine.new_self_refine("1+1", params, candidates=texts)
        engine.submit(request)
        while request.refinement is None:
            engine.step()
        edits: list[set[int]] = []
        apply = LogitEdits.applied

        def spy(self: LogitEdits, logits: torch.Tensor, unknown: Any) -> Any:
            assert self.seen
            edits.extend(set(seen.token_ids.tolist()) for seen in self.seen.values())
            return apply(self, logits, unknown)

        monkeypatch.setattr(LogitEdits, "applied", spy)
        while engine.has_work:
            engine.step()
        shown = {t for span in request.refinement.segment.context for t in span.token_ids}
    for text in ("1+1", *texts):
        assert shown >= set(engine.tokenizer.encode_text(text))
    assert edits[0] == shown


def test_min_tokens(qwen2: Path) -> None:
    """Until `min_tokens` no token that ends the stream is drawn; afterwards it may be."""
    everything = tuple(range(50, 101))
    params = {"temperature": 2.0, "max_tokens": 30, "n": 8, "seed": 1}
    with Engine.from_pretrained(qwen2) as engine:
        early, late = engine.generate(
            ["hello"] * 2,
            [
                SamplingParams(stop_token_ids=everything, **params),
                SamplingParams(stop_token_ids=everything, min_tokens=12, **params),
            ],
        )
        assert min(len(c.token_ids) for c in early.completions) < 12
        assert all(len(c.token_ids) > 12 for c in late.completions)
        assert {c.finish_reason for c in late.completions} == {"stop"}
        assert all(max(c.content_ids) < 50 for c in late.completions)
        with pytest.raises(InvalidRequest, match="min_tokens: 2000 is more than the 1019 tokens"):
            engine.generate(["hello"], SamplingParams(min_tokens=2000))


def test_top_logprobs_are_those_of_the_model(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They ignore the penalties, truncation and temperature of the draw."""
    kept: dict[Stream, list[torch.Tensor]] = {}
    draw = Sampler.draw

    def recording(self: Sampler, logits: Any, rows: Any, streams: Any, assumed: Any) -> Any:
        for row, stream in zip(rows, streams, strict=True):
            kept.setdefault(stream, []).append(logits[row].log_softmax(-1))
        return draw(self, logits, rows, streams, assumed)

    monkeypatch.setattr(Sampler, "draw", recording)
    params = {"n": 2, "max_tokens": 12, "ignore_eos": True, "top_k": 10}
    asked = SamplingParams(
        top_logprobs=4, repetition_penalty=1.3, min_tokens=5, temperature=0.7, **params
    )
    with Engine.from_pretrained(qwen2) as engine:
        some, most, none = engine.generate(
            ["one", "two", "three"],
            [asked, SamplingParams(top_logprobs=20, **params), SamplingParams(**params)],
        )
    assert all(completion.top_logprobs is None for completion in none.completions)
    by_tokens = {tuple(s.segment.token_ids): rows for s, rows in kept.items()}
    for count, result in ((4, some), (20, most)):
        for completion in result.completions:
            expected = torch.stack(by_tokens[tuple(completion.token_ids)])
            places = torch.tensor(completion.token_ids)[:, None]
            assert torch.allclose(
                torch.tensor(completion.logprobs), expected.gather(1, places)[:, 0], atol=1e-6
            )
            assert completion.top_logprobs is not None
            assert len(completion.top_logprobs) == len(completion.token_ids)
            for tops, row in zip(completion.top_logprobs, expected, strict=True):
                values = row.topk(count).values
                assert torch.equal(torch.tensor([value for _, value in tops]), values)
                assert torch.equal(row[[token for token, _ in tops]], values)


EXTRAS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3, "top_logprobs": 3},
    {"presence_penalty": 1.5, "frequency_penalty": -0.5},
    {"frequency_penalty": 0.7, "min_tokens": 20, "top_k": 20},
    {"stop": ("a", "zz", "7")},
    {"repetition_penalty": 0.8, "stop": ("e",), "min_tokens": 15},
    {"top_k": 2, "repetition_detection": LOOPS},
]


def test_in_company_and_preempted_a_request_gets_what_it_gets_alone(qwen2: Path) -> None:
    prompts = [f"prompt number {index} " * (1 + index) for index in range(len(EXTRAS))]
    every = [SamplingParams(n=3, max_tokens=60, seed=5, **extra) for extra in EXTRAS]
    alone: list[list[Completion]] = []
    with Engine.from_pretrained(qwen2) as engine:
        for index, (prompt, params) in enumerate(zip(prompts, every, strict=True)):
            request = engine.new_generate(prompt, params, index=index)
            engine.submit(request)
            while engine.has_work:
                engine.step()
            assert request.result
            alone.append(request.result.completions)
        together = [result.completions for result in engine.generate(prompts, every)]
    assert together == alone
    with Engine.from_pretrained(qwen2, kv_cache_gib=0.0003) as tight:
        preempted = [result.completions for result in tight.generate(prompts, every)]
        assert tight.stats()["preemptions"]
        tight.check()
    for mine, other in zip(preempted, alone, strict=True):
        assert [c.token_ids for c in mine] == [c.token_ids for c in other]
        assert [c.text for c in mine] == [c.text for c in other]
    reasons = {c.finish_reason for completions in alone for c in completions}
    assert reasons >= {"stop", "length", "repetition"}


def test_stop_strings(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.from_pretrained(qwen2) as engine:
        scripted(engine, monkeypatch, ["one END two", "no EN D here<|im_end|>", "EEND"])
        params = SamplingParams(n=3, stop=("END", "never"), max_tokens=40)
        (result,) = engine.generate(["hi"], params)
        first, second, third = result.completions
        assert [c.text for c in result.completions] == ["one ", "no EN D here", "E"]
        assert {c.finish_reason for c in result.completions} == {"stop"}
        assert engine.tokenizer.decode(first.token_ids) == "one END"
        assert [engine.tokenizer.decode(c.content_ids) for c in (first, third)] == ["one ", "E"]
        assert len(second.content_ids) == len(second.token_ids) - 1
        assert first.content_length == 4
        scripted(engine, monkeypatch, ["END, END; END"])
        late = SamplingParams(stop=("END",), min_tokens=6, max_tokens=20)
        (result,) = engine.generate(["hi"], late)
        assert result.completions[0].text == "END, "
        scripted(engine, monkeypatch, ["abcEND"])
        (result,) = engine.generate(["hi"], SamplingParams(stop=("END",), max_tokens=6))
        assert result.completions[0].finish_reason == "stop"  # and not "length"


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        ("one END two", {"stop": ("END", "two")}, "END"),
        ("one END two", {"stop": ("D", "END", "ND")}, "END"),
        ("one<|im_end|>", {"stop": ("END",)}, None),
        ("one<|im_end|>", {"stop_token_ids": IM_END}, None),
        ("one<|im_end|>", {"stop_token_ids": IM_END, "ignore_eos": True}, IM_END),
        ("one<|im_end|>", {"stop": "<|im_end|>", "ignore_eos": True}, "<|im_end|>"),
        ("one<|im_start|>", {"stop_token_ids": (5, IM_START)}, IM_START),
        ("one<|im_start|>", {"stop": ("END", "<|im_start|>")}, "<|im_start|>"),
        ("one<|im_start|>", {"stop": "<|im_start|>", "stop_token_ids": IM_START}, IM_START),
        ("one END two", {"max_tokens": 3}, None),
    ],
)
def test_what_ended_a_stream_is_told(
    text: str, changes: Any, reason: Any, qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine.from_pretrained(qwen2) as engine:
        assert engine.tokenizer.stop_token("<|im_end|>") == IM_END
        assert engine.tokenizer.stop_token("<|im_start|>") == IM_START
        scripted(engine, monkeypatch, [text])
        (result,) = engine.generate(["hi"], SamplingParams(**{"max_tokens": 40, **changes}))
        (completion,) = result.completions
        assert completion.finish_reason == ("length" if "max_tokens" in changes else "stop")
        assert completion.stop_reason == reason


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_candidates_end_before_a_stop_string(
    layout: str, qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SelfRefineParams(
        k=2,
        layout=layout,  # type: ignore[arg-type]
        force_layout=True,
        candidate=SamplingParams(max_tokens=30, stop=("##",)),
        refine=SamplingParams(max_tokens=30, stop=("\n\n",)),
    )
    with Engine.from_pretrained(qwen2) as engine:
        scripted(engine, monkeypatch, ["\\boxed{1}##", "\\boxed{2}#.##", "\\boxed{3}\n\nmore"])
        request = engine.new_self_refine("1+1", params)
        run_checked(engine, [request])
        assert request.result
        assert request.refinement
        assert [c.text for c in request.result.candidates] == ["\\boxed{1}", "\\boxed{2}#."]
        assert [c.span_length for c in request.candidates] == [9, 11]
        text = engine.tokenizer.decode(
            [token for span in request.refinement.segment.context for token in span.token_ids]
        )
        assert "\\boxed{2}#." in text
        assert "##" not in text
        assert (request.result.text, request.result.answer) == ("\\boxed{3}", "3")


def test_what_a_stop_string_leaves_of_a_token_counts_for_the_answer(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2) as engine:
        content = engine.tokenizer.encode_text("\\boxed{4}, \\boxed{5")
        text = "\\boxed{4}, \\boxed{5}"
        solution = Completion(0, text, content, [], "stop", content_length=len(content))
        assert engine.prompts.text_and_answer(solution) == (text, "5")


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with one token whose embedding is NaN, and one whose embedding is infinite."""
    folder = make_checkpoint(tmp_path_factory.mktemp("poisoned"), "qwen3")
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" in tensors  # tied weights would give every row a NaN logit
    tensors["model.embed_tokens.weight"][0] = float("nan")
    tensors["model.embed_tokens.weight"][90] = float("nan")
    tensors["model.embed_tokens.weight"][91] = float("inf")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("options", [{}, {"max_batch_tokens": 24, "max_num_seqs": 24}])
@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.0}, {"top_k": 5, "top_p": 0.9}, {"prompt_logprobs": 1}]
)
@pytest.mark.parametrize("bad", [90, 91])
def test_not_finite_fails_alone(
    bad: int, sampling: dict[str, Any], options: dict[str, int], poisoned: Path
) -> None:
    """Only the request fails, not others beside it, with a shared prefix, or with its freed pages.

    Token 0, which padding rows compute, also gives values that are not finite.
    """
    shared = [5 + index % 60 for index in range(40)]
    good = [[7, 8, 9], [*shared[:33], 10, 11], [*shared, 12]]
    evil = [[bad], [*shared, bad, 13], [*shared[:20], bad, *shared[20:]], [bad] * 17]
    params = SamplingParams(
        n=2,
        seed=3,
        max_tokens=12,
        stop_token_ids=(90, 91),
        min_tokens=12,
        top_logprobs=2,
        **sampling,
    )

    def run(engine: Engine, prompts: list[list[int]]) -> list[Any]:
        # Index 0 for every prompt, so that its seed does not depend on its position in the list.
        requests = [engine.new_generate(prompt, params) for prompt in prompts]
        run_checked(engine, requests)
        return [request.result for request in requests]

    with Engine.from_pretrained(poisoned, kv_cache_gib=0.001, **options) as engine:
        alone = [run(engine, [prompt])[0] for prompt in good]
    assert all(not result.error for result in alone)
    with Engine.from_pretrained(poisoned, kv_cache_gib=0.001, **options) as engine:
        mixed = [prompt for pair in zip(evil, good, strict=False) for prompt in pair]
        for prompts in (mixed, evil, mixed[::-1], good):
            for prompt, result in zip(prompts, run(engine, prompts), strict=True):
                if prompt in good:
                    expected = alone[good.index(prompt)].completions
                    for mine, other in zip(result.completions, expected, strict=True):
                        assert mine.token_ids == other.token_ids
                        # A hit in the prefix cache may change the last bits.
                        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)
                    assert result.error is None
                else:
                    assert result.error == "the model's logits are not finite"
                    assert [c.finish_reason for c in result.completions] == ["error"] * 2
                    assert [c.token_ids for c in result.completions] == [[], []]
        assert engine.stats()["pages_used"] == 0
