"""A real model in use: ends, stop strings, streams, requests of a server, the command."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typer.testing import CliRunner

from gsr_engine import (
    CandidateToken,
    Engine,
    Event,
    Final,
    GenerateResult,
    SamplingParams,
)
from gsr_engine.cli.commands import app
from tests.helpers.readers import read, serving
from tests.helpers.recorder import Recorder

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real")]

GREEDY = SamplingParams(max_tokens=24, temperature=0.0)
OPTIONS = {"dtype": "float32", "quantization": "none", "kv_cache_gib": 0.3}
QUESTION = [{"role": "user", "content": "What is 2+2? Answer with a number only."}]


def test_an_answer_ends_where_transformers_ends(
    engine: Engine, oracle: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    (result,) = engine.chat(QUESTION, GREEDY)
    ids = torch.tensor([result.prompt_token_ids])
    theirs = oracle.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=[0, 2],
    )[0, ids.shape[1] :].tolist()
    (ours,) = result.completions
    assert ours.token_ids == theirs
    assert (ours.finish_reason, ours.token_ids[-1]) == ("stop", 2)
    assert ours.text == tokenizer.decode(theirs, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("token", "spelling", "ends"),
    [(0, "<|endoftext|>", True), (2, "<|im_end|>", True), (1, "<|im_start|>", False)],
)
def test_either_end_token_ends_a_stream(
    token: int, spelling: str, ends: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.tokenizer.pieces([token]) == [spelling]
    Recorder(monkeypatch, range(token, token + 1))
    (result,) = engine.chat(QUESTION, GREEDY)
    (completion,) = result.completions
    assert completion.finish_reason == ("stop" if ends else "length")
    assert len(completion.token_ids) == (1 if ends else GREEDY.max_tokens)
    assert completion.text == ""


def test_stop_strings_end_a_text_before_them(engine: Engine) -> None:
    prompt = "1, 2, 3, 4,"
    (whole,) = engine.generate(prompt, GREEDY)
    text = whole.completions[0].text
    stop = text[7:10]  # it ends inside of a number: in the middle of what is streamed
    assert text.index(stop) == 7
    (cut,) = engine.generate(prompt, SamplingParams(max_tokens=24, temperature=0.0, stop=stop))
    (ours,) = cut.completions
    assert (ours.text, ours.finish_reason) == (text[:7], "stop")
    assert ours.token_ids == whole.completions[0].token_ids[: len(ours.token_ids)]
    (named,) = engine.chat(QUESTION, SamplingParams(max_tokens=24, stop="<|im_end|>", seed=1))
    assert named.completions[0].finish_reason == "stop"


UNICODE = ("🙂🙃🙂🙃🙂🙃🙂", "東京は日本の首都です。東京は日本の", "Привет, как дела? Привет, как")


def pieces_of(events: list[Event[GenerateResult]]) -> tuple[list[str], str]:
    """The streamed pieces of text, and the text of the result."""
    last = events[-1]
    assert isinstance(last, Final)
    pieces = [event.text for event in events if isinstance(event, CandidateToken)]
    return pieces, last.result.completions[0].text


def test_streamed_text_shows_no_half_characters(smollm2: Path) -> None:
    async def stream() -> list[list[Event[GenerateResult]]]:
        async with serving(smollm2, **OPTIONS) as engine:
            return await asyncio.gather(*(read(engine.generate(one, GREEDY)) for one in UNICODE))

    for events in asyncio.run(stream()):
        pieces, text = pieces_of(events)
        assert "".join(pieces) == text
        assert not text.isascii()
        assert len(pieces) > 3
        # A character has several tokens; only a stream that ends inside of one shows that.
        assert "\ufffd" not in "".join(pieces[:-1])


def conversations() -> Iterator[list[dict[str, str]]]:
    for i in range(100):
        yield [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"Say a word with {i}."},
        ]


def test_a_hundred_streams_at_once_are_a_hundred_single_ones(smollm2: Path, engine: Engine) -> None:
    """As a server of OpenAI's protocol has them: messages in, text out while it grows."""
    params = [SamplingParams(max_tokens=8, seed=i) for i in range(100)]
    asked = list(conversations())

    async def serve() -> list[list[Event[GenerateResult]]]:
        async with serving(smollm2, max_num_seqs=100, **OPTIONS) as server:
            streams = [
                read(server.chat(messages, own))
                for messages, own in zip(asked, params, strict=True)
            ]
            return await asyncio.gather(*streams)

    answers = asyncio.run(serve())
    texts = set()
    for events in answers:
        pieces, text = pieces_of(events)
        assert "".join(pieces) == text
        texts.add(text)
    assert len(texts) > 50
    for index in range(3, 100, 19):
        (alone,) = engine.chat([asked[index]], params[index])
        last = answers[index][-1]
        assert isinstance(last, Final)
        assert last.result.completions[0].token_ids == alone.completions[0].token_ids


def test_the_command_solves_with_a_file(smollm2: Path) -> None:
    arguments = ["--model", str(smollm2), "--k", "2", "--max-tokens", "8", "--seed", "1"]
    result = CliRunner().invoke(app, ["solve", "What is 2+2?", *arguments])
    assert result.exit_code in (0, 1)  # whether it states an answer
    assert "── refined" in result.stdout
    assert "GiB of weights" in result.stderr
