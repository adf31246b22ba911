"""How a client gets a refined answer: by one request, or by a loop of its own over two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.latency.cell import Streams
from benchmarks.latency.chat_client import Chat, Usage
from benchmarks.latency.timed_answer import Moments, TimedAnswer
from benchmarks.peers.servers import NotAnswered
from gsr_engine.params import Layout
from gsr_engine.text.answers import find_answer


class Method(Protocol):
    """How a client gets a refined answer."""

    @property
    def name(self) -> str:
        """A part of its system's name."""
        ...

    async def answer(
        self, chat: Chat, streams: Streams, problem: str, seed: int, moments: Moments
    ) -> TimedAnswer:
        """See `Answerer.answer`."""
        ...


@dataclass(frozen=True, slots=True)
class OneRequest:
    """selfRef@k, which the server does; it must know the field `gsr`."""

    layout: Layout
    forced: bool

    @property
    def name(self) -> str:
        """Its layout."""
        return self.layout

    async def answer(
        self, chat: Chat, streams: Streams, problem: str, seed: int, moments: Moments
    ) -> TimedAnswer:
        """See `Answerer.answer`."""
        usage, done = Usage(), dict[str, Any]()
        answers: list[str | None] = [None] * streams.k
        fields = {"gsr": self._gsr(chat, streams), "seed": seed, "temperature": 0.0}
        bounds = streams.tokens(refinement=True)
        async for chunk in chat.chunks(problem, usage, streams.salt, **fields, **bounds):
            told = chunk.get("gsr") or {}
            match told.get("event"):
                case "tokens":
                    moments.candidate(told["candidate"])
                case "candidate_done":
                    moments.candidate(told["candidate"])
                    answers[told["candidate"]] = told["answer"]
                case "done":
                    moments.refinement()
                    done = told
                case _ if any(map(_says, chunk.get("choices") or ())):
                    moments.refinement()
        if missing := moments.missing:
            raise NotAnswered(f"nothing came of {missing[0]}")
        return _timed(streams, moments, usage, done["tokens"], answers, done["answer"])

    def _gsr(self, chat: Chat, streams: Streams) -> dict[str, Any]:
        template = {} if chat.gsr.names_template else {"template": chat.gsr.template.name}
        return {
            "k": streams.k,
            "layout": self.layout,
            "force_layout": self.forced,
            "view": streams.view,
            "summary_tokens": streams.summary_tokens,
            "candidate": {"temperature": 1.0, **streams.tokens(refinement=False)},
            "stream": "all",
            **template,
        }


@dataclass(slots=True)
class _Choice:
    """What a choice has said so far; its thinking apart."""

    content: str = ""
    thinking: str = ""

    def add(self, delta: dict[str, Any]) -> None:
        self.content += delta.get("content") or ""
        self.thinking += delta.get("reasoning_content") or delta.get("reasoning") or ""


@dataclass(frozen=True, slots=True)
class ClientsLoop:
    """The same by a client of any server: k candidates, then a prompt that holds them.

    The prompt has the words of the engine's own linear layout. Candidates are shown whole, but
    without their thinking if lengths are natural; one without a text then is left out.
    """

    name: str = "client's loop"

    async def answer(
        self, chat: Chat, streams: Streams, problem: str, seed: int, moments: Moments
    ) -> TimedAnswer:
        """See `Answerer.answer`."""
        drawn, refined = Usage(), Usage()
        texts = chat.gsr.template.shows(streams.k)
        choices = [_Choice() for _ in range(streams.k)]
        fields = {"n": streams.k, "seed": seed, "temperature": 1.0}
        bounds = streams.tokens(refinement=False)
        asked = problem + texts.direct
        async for chunk in chat.chunks(asked, drawn, streams.salt, **fields, **bounds):
            for choice in filter(_says, chunk.get("choices") or ()):
                choices[choice["index"]].add(choice["delta"])
                moments.candidate(choice["index"])
        last = _Choice()
        prompt = self._prompt(chat, streams, problem, choices)
        bounds = streams.tokens(refinement=True)
        async for chunk in chat.chunks(prompt, refined, streams.salt, temperature=0.0, **bounds):
            for choice in filter(_says, chunk.get("choices") or ()):
                last.add(choice["delta"])
                moments.refinement()
        if missing := moments.missing:
            raise NotAnswered(f"nothing came of {missing[0]}: is n of {streams.k} known?")
        found = [find_answer(one.content, chat.gsr.answer_pattern) for one in [*choices, last]]
        both = Usage(drawn.generated + refined.generated, _sum(drawn.computed, refined.computed))
        return _timed(streams, moments, both, refined.generated, found[:-1], found[-1])

    def _prompt(self, chat: Chat, streams: Streams, problem: str, choices: list[_Choice]) -> str:
        shown = [one.thinking + one.content if streams.fixed else one.content for one in choices]
        shown = [one for one in shown if one.strip()] or shown[:1]
        texts = chat.gsr.template.shows(len(shown))
        parts = [texts.before(i) + one for i, one in enumerate(shown, start=1)]
        again = "" if texts.restate is None else texts.restate + problem
        return texts.opening + problem + texts.preamble + "".join(parts) + texts.linear + again


def _says(choice: dict[str, Any]) -> bool:
    """Whether a chunk brings something of a choice: text, thinking, or its end."""
    delta = choice.get("delta") or {}
    texts = (delta.get(name) for name in ("content", "reasoning", "reasoning_content"))
    return any(texts) or choice.get("finish_reason") is not None


def _sum(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left + right


def _timed(
    streams: Streams,
    moments: Moments,
    usage: Usage,
    refine_tokens: int,
    candidate_answers: list[str | None],
    answer: str | None,
) -> TimedAnswer:
    candidate_tokens = usage.generated - refine_tokens
    if wrong := streams.check(candidate_tokens, refine_tokens):
        raise NotAnswered(wrong)
    return moments.answer(
        candidate_tokens=candidate_tokens,
        refine_tokens=refine_tokens,
        computed_tokens=usage.computed,
        candidate_answers=candidate_answers,
        answer=answer,
    )
