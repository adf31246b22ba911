"""Conversations with nano have the right fields; no test is timed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from benchmarks.conversations.__main__ import main
from benchmarks.conversations.comparison import CALLERS, Outcome, Subject, best_of, hold
from benchmarks.conversations.kept_cache import KeptCache
from benchmarks.conversations.script import Conversation, Script, chat, token_by_token
from gsr_engine import InvalidRequest
from gsr_engine.demo.report import NANO

pytestmark = pytest.mark.slow


def untracked(items: Sequence[int], _: str) -> Iterable[int]:
    return items


@pytest.fixture(scope="module")
def nano() -> Subject:
    return Subject("nano", NANO, kv_gib=0.02)


def test_a_conversation_says_the_same_again_and_grows_to_its_length() -> None:
    script = chat(3, added=5, generated=4)
    said, again = (Conversation(script, vocab_size=50) for _ in range(2))
    prompts = []
    for _ in range(3):
        prompts.append(said.ask())
        assert again.ask() == prompts[-1]
        for one in (said, again):
            one.answer([7, 8, 9, 7])
    assert list(map(len, prompts)) == [5, 14, 23]
    assert prompts[1][:9] == [*prompts[0], 7, 8, 9, 7]
    assert len(said.token_ids) == script.length == 27


@pytest.mark.parametrize(
    ("script", "reusable"),
    [
        # The history before each turn, without its last token, which nobody fed.
        (chat(4, added=20, generated=12), (32 - 1) + (64 - 1) + (96 - 1)),
        (token_by_token(6, first=30), sum(range(30, 35))),
    ],
)
def test_the_fields_of_an_outcome(nano: Subject, script: Script, reusable: int) -> None:
    outcome = hold(nano, script, 3, untracked)
    assert outcome.sampled == sorted({0, 3, script.calls - 1})
    counts = [script.calls, len(outcome.sampled), script.calls]
    assert [len(outcome.ms[name]) for name in CALLERS] == counts
    assert all(ms > 0 for times in outcome.ms.values() for ms in times)
    assert outcome.reusable == reusable
    assert script.first * (script.calls - 1) <= outcome.reused <= reusable
    assert outcome.generated == script.calls * script.generated
    assert (outcome.differing, outcome.beyond_ties, outcome.uncached_differing) == (0, 0, 0)
    assert outcome.pages["used"] == 0  # a finished request holds no page
    assert outcome.pages["cached"] > 0
    assert outcome.last_pages >= outcome.fewest_pages == -(-(script.length - 1) // 16)


def test_tokens_that_transformers_would_not_draw_are_counted(nano: Subject) -> None:
    theirs, prompt = KeptCache(nano.model), list(range(10, 30))
    theirs.call(prompt, [11, 12, 13])
    assert 0 < theirs.beyond_ties <= theirs.differing <= 3
    assert len(theirs.seconds) == 1


def test_the_first_and_the_last_tenth_and_the_best_of_runs() -> None:
    def outcome(ms: dict[str, list[float]]) -> Outcome:
        script = token_by_token(20)
        pages = {"used": 0, "cached": 1, "peak": 1}
        return Outcome("one", script, ms, [0, 10, 19], 0, 0, pages, 1, 1, 20, 0, 0, 0)

    ours, plain, theirs = CALLERS
    rising = [float(ms) for ms in range(1, 21)]
    first = outcome({ours: rising, plain: [5.0, 6.0, 7.0], theirs: [2.0] * 20})
    second = outcome({ours: rising[::-1], plain: [6.0, 5.0, 8.0], theirs: [1.0] * 20})
    assert [first.tenth(ours, last=last) for last in (False, True)] == [1.5, 19.5]
    assert [first.tenth(plain, last=last) for last in (False, True)] == [5.0, 7.0]
    best = best_of([first, second])
    assert best.ms[ours][:3] == best.ms[ours][-1:-4:-1] == [1.0, 2.0, 3.0]
    assert (best.ms[plain], best.ms[theirs]) == ([5.0, 5.0, 7.0], [1.0] * 20)


def test_the_command_prints_tables_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "found.json"
    main(
        subjects="nano",
        model=None,
        work="chat,tokens",
        calls=2,
        every=2,
        runs=1,
        kv_gib=0.02,
        json_file=file,
    )
    printed = capsys.readouterr().out
    for text in ("nano, 2 turns of 50 + 50", "nano, 2 tokens", *CALLERS, "unlike transformers"):
        assert text in printed
    found = json.loads(file.read_text())
    assert [one["script"]["work"] for one in found["outcomes"]] == ["chat", "tokens"]
    assert all(one["beyond_ties"] == 0 for one in found["outcomes"])


def test_what_cannot_be_held_is_refused_by_name(nano: Subject) -> None:
    with pytest.raises(InvalidRequest, match="come to 2100 tokens, above the checkpoint's 2048"):
        hold(nano, chat(21, 50, 50), 25, untracked)
    usual = {"model": None, "calls": None, "every": 1, "runs": 1, "kv_gib": 0.02, "json_file": None}
    with pytest.raises(InvalidRequest, match=r"work: .* 'poem'"):
        main(subjects="nano", work="poem", **usual)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"subjects: .* '70b'"):
        main(subjects="70b", work="chat", **usual)  # type: ignore[arg-type]
