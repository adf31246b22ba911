"""The asyncio front gives the same results and all events; early leavers leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models
from transformers import PreTrainedTokenizerFast

from gsr_engine import (
    AsyncEngine,
    CandidateDone,
    CandidateToken,
    Engine,
    InvalidRequest,
    RefineToken,
    RepetitionDetectionParams,
    SamplingParams,
    SelfRefineParams,
    Submitted,
    final_result,
)
from gsr_engine.checkpoint.tokenizer import Tokenizer
from tests.helpers.readers import (
    CANDIDATES,
    ENDLESS,
    PARAMS,
    REFINEMENT,
    assert_idle,
    read,
    read_until,
    same,
    serving,
    verify,
)

pytestmark = pytest.mark.slow


def test_many_at_once_equal_the_synchronous_engine(qwen2: Path) -> None:
    sampling = SamplingParams(n=3, seed=2, max_tokens=25)
    given = ["1", [9, 8, 7]]
    talk = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "6*7"}]

    async def main() -> list[Any]:
        async with serving(qwen2) as engine:
            asked = [
                *(engine.self_refine(f"{i}+1", PARAMS) for i in range(4)),
                engine.self_refine("7+7", PARAMS, candidates=given),
                *(engine.generate(prompt, sampling) for prompt in ("hello", [5, 6, 7])),
                engine.self_refine(talk, PARAMS),
                engine.chat(talk, sampling),
                engine.generate("<|im_end|>", sampling, special_tokens="text"),
            ]
            return [verify(events) for events in await asyncio.gather(*map(read, asked))]

    results = asyncio.run(main())
    with Engine.from_pretrained(qwen2) as engine:
        expected: list[Any] = [engine.self_refine([f"{i}+1"], PARAMS)[0] for i in range(4)]
        expected += engine.self_refine(["7+7"], PARAMS, [given])
        expected += [engine.generate([prompt], sampling)[0] for prompt in ("hello", [5, 6, 7])]
        expected += engine.self_refine([talk], PARAMS)
        expected += engine.chat([talk], sampling)
        expected += engine.generate(["<|im_end|>"], sampling, special_tokens="text")
        assert not set(expected[-1].prompt_token_ids) & engine.tokenizer.control_ids
    assert len(results) == len(expected) == 10
    assert all(same(*pair) for pair in zip(results, expected, strict=True))
    assert {candidate.finish_reason for candidate in results[0].candidates} >= {"stop"}
    assert [candidate.finish_reason for candidate in results[4].candidates] == ["given"] * 2


def test_streamed_text_holds_nothing_of_a_stop_string(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2) as engine:
        free = engine.generate(["hello"], SamplingParams(seed=2, max_tokens=40, ignore_eos=True))
    stop = free[0].completions[0].text[20:25]
    params = SamplingParams(seed=2, max_tokens=40, ignore_eos=True, stop=(stop, "never" * 9))

    async def main() -> None:
        async with serving(qwen2) as engine:
            result = verify(await read(engine.generate("hello", params)))
            (stream,) = result.completions
            assert stream.finish_reason == "stop"
            assert free[0].completions[0].text.startswith(stream.text + stop)

    asyncio.run(main())


def test_a_loop_is_streamed_whole_and_has_its_reason(qwen2: Path) -> None:
    loops = RepetitionDetectionParams(max_pattern_size=3, min_count=2)
    params = SamplingParams(n=2, seed=2, top_k=2, ignore_eos=True, repetition_detection=loops)

    async def main() -> None:
        async with serving(qwen2) as engine:
            result = verify(await read(engine.generate("hello", params)))
            assert {stream.finish_reason for stream in result.completions} == {"repetition"}

    asyncio.run(main())


def test_without_parameters_and_as_a_result(qwen2: Path) -> None:
    async def main() -> None:
        async with serving(qwen2) as engine:
            refined = await final_result(engine.self_refine("1+1"))
            assert len(refined.candidates) == SelfRefineParams().k
            completed = await final_result(engine.generate([5]))
            assert len(completed.completions) == 1

    asyncio.run(main())


def test_text_whose_characters_span_tokens(qwen2: Path) -> None:
    """Each token is one byte, in any order: complete characters, parts of them, invalid bytes."""
    signs = [*range(ord("a"), ord("x")), *range(0xC3, 0xD0), *range(0x80, 0xC0)]
    raw = RawTokenizer(models.BPE({_spelled(byte): i for i, byte in enumerate(signs)}, []))
    raw.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=raw), frozenset())

    async def main() -> None:
        engine = Engine.from_pretrained(qwen2)
        engine.tokenizer = tokenizer
        async with AsyncEngine(engine) as serving:
            params = SamplingParams(n=8, seed=1, max_tokens=60)
            result = verify(await read(serving.generate([5, 6], params)))
            text = "".join(stream.text for stream in result.completions)
            assert "\ufffd" in text
            assert any(0x80 <= ord(sign) < 0xFFFD for sign in text)

    asyncio.run(main())


def _spelled(byte: int) -> str:
    """How a byte-level vocabulary writes a byte: itself if printable, else a character from 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [one for one in range(0x100) if one not in printable]
    return chr(byte if byte in printable else 0x100 + others.index(byte))


STAGES = [Submitted, CANDIDATES, CandidateToken, CandidateDone, REFINEMENT, RefineToken]


async def leave_by_aclose(engine: AsyncEngine, events: Any, stage: object) -> None:
    await read_until(events, stage)
    await events.aclose()


async def leave_by_aclosing(engine: AsyncEngine, events: Any, stage: object) -> None:
    async with aclosing(events):
        await read_until(events, stage)


async def leave_by_task(engine: AsyncEngine, events: Any, stage: object) -> None:
    reached = asyncio.Event()

    async def reader() -> None:
        await read_until(events, stage)
        reached.set()
        await read(events)

    task = asyncio.create_task(reader())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_by_id(engine: AsyncEngine, events: Any, stage: object) -> None:
    seen = await read_until(events, stage)
    assert isinstance(seen[0], Submitted)
    assert await engine.abort(seen[0].request_id)
    stats = await engine.stats()
    assert stats["requests_running"] <= 1  # only the other request still runs
    seen += await read(events)
    result = verify(seen)
    streams = [*result.candidates, *([result.refinement] if result.refinement else [])]
    assert "abort" in {stream.finish_reason for stream in streams}
    assert result.error == "aborted"
    assert not await engine.abort(seen[0].request_id)


@pytest.mark.parametrize("leave", [leave_by_aclose, leave_by_aclosing, leave_by_task, leave_by_id])
def test_leaving_at_every_stage(
    leave: Callable[..., Coroutine[Any, Any, None]], qwen2: Path
) -> None:
    """The request ends and its pages are freed; the result of another request is not affected."""
    params = SelfRefineParams(k=3, seed=5, candidate=SamplingParams(max_tokens=30), refine=ENDLESS)

    async def main() -> list[Any]:
        results = []
        async with serving(qwen2) as engine:
            for stage in STAGES:
                other = asyncio.create_task(read(engine.self_refine("2+1", PARAMS)))
                await leave(engine, engine.self_refine("1+1", params), stage)
                await engine.check()
                results.append(verify(await other))
                await assert_idle(engine)
        return results

    results = asyncio.run(main())
    with Engine.from_pretrained(qwen2) as engine:
        (expected,) = engine.self_refine(["2+1"], PARAMS)
    assert all(same(result, expected) for result in results)


def test_a_generator_that_is_never_read_or_read_to_its_end(qwen2: Path) -> None:
    async def main() -> None:
        async with serving(qwen2) as engine:
            await engine.self_refine("1+1").aclose()
            events = engine.generate([5], SamplingParams(max_tokens=2))
            await read(events)
            await events.aclose()
            assert await read(events) == []
            assert (await engine.stats())["requests_finished"] == 1

    asyncio.run(main())


def test_a_loop_that_is_left_by_break(qwen2: Path) -> None:
    async def main() -> None:
        async with serving(qwen2) as engine:
            async for _ in engine.generate([5], ENDLESS):
                break
            while (await engine.stats())["requests_running"]:
                pass
            assert (await engine.stats())["completion_tokens"] < 900

    asyncio.run(main())


def test_ids(qwen2: Path) -> None:
    async def main() -> None:
        async with serving(qwen2) as engine:
            first = engine.generate([5], ENDLESS, request_id="mine")
            assert await anext(first) == Submitted("mine")
            for bad, why in (("mine", "live request"), ("", "text"), (7, "text")):
                with pytest.raises(InvalidRequest, match=f"request_id.*{why}"):
                    await anext(engine.generate([5], request_id=bad))
            assert await engine.abort("mine")  # refusing the second "mine" did not end the first
            assert verify([Submitted("mine"), *await read(first)]).completions
            assert not await engine.abort("mine")
            assert not await engine.abort("nobody's")
            again = await read(
                engine.generate([5], SamplingParams(max_tokens=1), request_id="mine")
            )
            assert again[0] == Submitted("mine")
            names = [await anext(engine.generate([5], SamplingParams(max_tokens=1))) for _ in "ab"]
            assert names[0] != names[1]
            await engine.drain()

    asyncio.run(main())


def test_bad_input_raises_in_its_caller_and_disturbs_nobody(qwen2: Path) -> None:
    async def main() -> Any:
        async with serving(qwen2, max_pending=1) as engine:
            running = asyncio.create_task(read(engine.self_refine("2+1", PARAMS)))
            for bad, field in (
                (engine.self_refine(""), "problem"),
                (engine.self_refine(7), "problem"),
                (engine.self_refine("1", SamplingParams()), "params"),
                (engine.self_refine("1", candidates=[]), "candidates"),
                (engine.self_refine("1", SelfRefineParams(layout="branched")), "layout"),
                (engine.generate([]), "prompt"),
                (engine.generate([10**6]), "prompt"),
                (engine.generate("1", SelfRefineParams()), "params"),
            ):
                with pytest.raises(InvalidRequest) as caught:  # at once, even without room
                    await anext(bad)
                assert caught.value.field == field
            result = verify(await running)
            assert (await engine.stats())["requests_finished"] == 1
            return result

    result = asyncio.run(main())
    with Engine.from_pretrained(qwen2) as engine:
        assert same(result, engine.self_refine(["2+1"], PARAMS)[0])


def test_a_step_that_fails_is_a_result_with_an_error(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: object) -> None:
        raise RuntimeError("no dice")

    async def main() -> None:
        async with serving(qwen2) as engine:
            with monkeypatch.context() as patch:
                patch.setattr("gsr_engine.execution.sampler.Sampler.draw", draw)
                result = verify(await read(engine.self_refine("1+1", PARAMS)))
                assert result.error == "RuntimeError: no dice"
            assert verify(await read(engine.self_refine("1+1", PARAMS))).error is None

    asyncio.run(main())


def test_a_request_whose_events_cannot_be_made_fails_alone(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def push(*_: object) -> str:
        monkeypatch.undo()
        raise UnicodeError("no text")

    async def main() -> None:
        async with serving(qwen2) as engine:
            monkeypatch.setattr("gsr_engine.serving.observer.Detokenizer.push", push)
            with pytest.raises(UnicodeError, match="no text"):
                await read(engine.generate([5], ENDLESS))
            verify(await read(engine.self_refine("1+1", PARAMS)))

    asyncio.run(main())
