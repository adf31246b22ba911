"""A look-alike of a real chat checkpoint: ChatML, two end tokens, thinking, no gsr.json."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.execution.sampler import PendingDraws
from gsr_engine.programs.template import TEMPLATES
from gsr_engine.requests.request import Stream
from tests.helpers.recorder import Recorder


def scripted(engine: Engine, monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    """Make every stream generate a given text: candidates in turn, the refinement the last text."""
    scripts = [engine.tokenizer.encode_markup(text) for text in texts]
    taken: dict[object, list[int]] = {}

    def draw(
        _: object, logits: object, rows: object, streams: list[Stream], *__: object
    ) -> PendingDraws:
        for stream in streams:
            if stream not in taken:
                taken[stream] = scripts.pop(0)
        tokens = [taken[s][len(s.segment)] for s in streams]
        return PendingDraws(torch.tensor(tokens), torch.zeros(len(tokens)), [], [])

    monkeypatch.setattr("gsr_engine.execution.sampler.Sampler.draw", draw)


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>"])
def test_every_end_token_ends(end: str, qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.from_pretrained(qwen2) as engine:
        assert len(engine.tokenizer.stop_ids) == 2
        scripted(engine, monkeypatch, [f"hello{end}"])
        (result,) = engine.chat([[{"role": "user", "content": "hi"}]])
    (completion,) = result.completions
    assert completion.text == "hello"
    assert completion.finish_reason == "stop"
    assert len(completion.token_ids) == 6


def test_ignore_eos_and_own_stop_tokens(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.from_pretrained(qwen2) as engine:
        stop = tuple(engine.tokenizer.encode_markup("!"))
        scripted(engine, monkeypatch, ["a<|im_end|>b!c"])
        params = SamplingParams(ignore_eos=True, stop_token_ids=stop, max_tokens=6)
        (result,) = engine.generate(["hi"], params)
    assert result.completions[0].text == "ab"
    assert result.completions[0].finish_reason == "stop"


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_only_summaries_are_shown(
    layout: str, qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thinking is not shown, an unfinished thought is left out, the result has no thinking."""
    candidates = [
        "<think>secret one</think>\\boxed{41}<|im_end|>",
        "<think>never ends" + "." * 40,
        "<think>secret two</think>\\boxed{42}<|im_end|>",
    ]
    refined = "<think>secret three</think>It is \\boxed{42}.<|im_end|>"
    params = SelfRefineParams(
        k=3,
        layout=layout,  # type: ignore[arg-type]
        seed=0,
        force_layout=True,
        candidate=SamplingParams(max_tokens=45),
    )
    with Engine.from_pretrained(qwen2) as engine:
        scripted(engine, monkeypatch, [*candidates, refined])
        request = engine.new_self_refine("6 times 7", params)
        engine.submit(request)
        while engine.has_work:
            engine.step()
        assert request.result
        assert request.refinement
        result = request.result
        prompt = request.refinement.segment.context[-1].segment
        shown = [
            engine.tokenizer.decode(span.segment.token_ids[span.start : span.stop])
            for span in (*prompt.context, request.refinement.segment.context[-1])
        ]
    assert "secret" not in "".join(shown)
    assert "41" in "".join(shown)
    assert sorted(result.used) == [0, 2]
    assert result.k_effective == 2
    assert result.text == "It is \\boxed{42}."
    assert result.answer == "42"
    assert [c.finish_reason for c in result.candidates] == ["stop", "length", "stop"]
    assert "secret two" in result.candidates[2].text


def test_without_gsr_json_the_built_in_template_is_used(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2) as engine:
        assert engine.gsr.template == TEMPLATES["gsr"]
        assert engine.gsr.layouts == ("linear",)
        assert not engine.gsr.trained
        text = engine.tokenizer.decode(engine.direct_prompt("6 times 7"))
    assert "6 times 7\n\nSolve the problem step by step." in text


def test_siblings_sample_the_one_prefill(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """n streams share one prefill: all siblings draw their first token from the same row."""
    with Engine.from_pretrained(qwen2) as engine:
        recorder = Recorder(monkeypatch, range(5, 90))
        (result,) = engine.generate(["hello there"], SamplingParams(n=5, max_tokens=3))
        first = [rows[0] for rows in recorder.logits.values()]
        assert all((row == first[0]).all() for row in first)
        usage = result.usage.phases["candidate_prefill"]
        assert usage.tokens_computed == len(result.prompt_token_ids)
        assert usage.tokens_reused == 4 * len(result.prompt_token_ids)
