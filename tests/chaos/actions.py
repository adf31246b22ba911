"""What can happen to an engine: the one list that the state machine, the soak and the chaos share.

An action takes all its random choices from the generator that it is given. So a history is a list
of (action, seed): any part of it can be left out, and what is left does the same as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, Protocol

from gsr_engine import RepetitionDetectionParams, SamplingParams, SelfRefineParams
from gsr_engine.params import Layout

_LOOPS = RepetitionDetectionParams(max_pattern_size=3, min_count=2)
Fault = Literal[
    "launch", "late", "nan", "attention", "sampling", "transfer", "interrupt", "memory", "broken"
]


class World(Protocol):
    """An engine and everybody who uses it.

    Attributes:
        longest: tokens of the longest prompt, and a third of it of the longest stream.
        layouts: the layouts that the engine's checkpoint serves.
        problems: texts that begin alike.
        said: finished conversations (prompt and answer), to be gone on with.
        faults: what can be broken here.
        soon: a timeout that some of its requests reach, and some do not.
    """

    longest: int
    layouts: tuple[Layout, ...]
    problems: tuple[str, ...]
    said: list[list[int]]
    faults: tuple[Fault, ...]

    @property
    def soon(self) -> float:
        """See above."""

    def step(self) -> None:
        """Let some work be done."""

    def generate(self, prompt: list[int], params: SamplingParams) -> None:
        """Submit a request that completes a prompt."""

    def refine(self, problem: str, params: SelfRefineParams, given: list[list[int]] | None) -> None:
        """Submit a request for selfRef@k."""

    def two_engines(self, problem: str, params: SelfRefineParams) -> None:
        """Let this engine write the candidates of a problem and another one refine them."""

    def abort(self, rng: Random) -> None:
        """End one of the requests, or let its reader go away."""

    def misuse(self, rng: Random) -> None:
        """Submit a request twice, abort a finished one or one of another engine."""

    def evict(self) -> None:
        """Evict a cached prompt."""

    def reload(self) -> None:
        """Switch to other weights; they are the same."""

    def fault(self, kind: Fault, rng: Random) -> None:
        """Break the next step that computes anything."""


@dataclass(frozen=True, slots=True)
class Action:
    """One kind of event; `weight` says how often it happens."""

    name: str
    weight: float
    act: Callable[[World, Random], None]

    def __repr__(self) -> str:
        return self.name


def timed(params: SamplingParams | SelfRefineParams) -> bool:
    """Whether a timeout may end a request or its candidates."""
    return params.timeout is not None or (
        isinstance(params, SelfRefineParams) and params.candidate_timeout is not None
    )


def _sampling(world: World, rng: Random) -> SamplingParams:
    return SamplingParams(
        n=rng.choice((1, 1, 1, 2, 4)),
        max_tokens=rng.randrange(1, world.longest // 3),
        temperature=rng.choice((0.0, 1.0)),
        seed=rng.randrange(100),
        priority=rng.choice((0, 0, 0, 2)),
        cache_salt=rng.choice(("", "", "other")),
        repetition_detection=rng.choice((None, None, _LOOPS)),
        timeout=world.soon if rng.random() < 0.2 else None,
        prompt_logprobs=rng.choice((None, None, 0, 2)),
    )


def _step(world: World, rng: Random) -> None:
    world.step()


def _prompt(world: World, rng: Random) -> None:
    """Few families, short and long, so that many begin alike."""
    common = rng.choice((0, 15, 16, 17, 40, 130, 260, 300))
    end = [rng.randrange(6, 8) for _ in range(rng.randrange(1, 6))]
    prompt = ([9] * common)[: world.longest - len(end)] + end
    world.generate(prompt, _sampling(world, rng))


def _turn(world: World, rng: Random) -> None:
    """Go on with a conversation."""
    if world.said:
        said = rng.choice(world.said) + [rng.randrange(6, 9) for _ in range(rng.randrange(20))]
        world.generate(said[: world.longest], _sampling(world, rng))


def _token(world: World, rng: Random) -> None:
    """Ask for one token more."""
    if world.said:
        params = replace(_sampling(world, rng), n=1, max_tokens=1)
        world.generate(rng.choice(world.said)[: world.longest], params)


def _refinement(world: World, rng: Random) -> SelfRefineParams:
    layout = rng.choice(world.layouts)
    finished = layout == "linear" and rng.random() < 0.3
    one_round = finished or rng.random() < 0.6
    k = rng.randrange(1, 5)
    agreement = min(k, rng.choice((0, 0, 0, 2)))
    return SelfRefineParams(
        k=k,
        layout=layout,
        candidate=SamplingParams(
            max_tokens=rng.randrange(1, 40), repetition_detection=rng.choice((None, _LOOPS))
        ),
        refine=SamplingParams(max_tokens=rng.randrange(1, 40)),
        order="as_finished" if finished else "shuffled",
        view=rng.choice(("summary", "full")),
        summary_tokens=rng.choice((8, 1000)),
        widths=() if one_round else (rng.randrange(1, 4),),
        subset=None if finished or rng.random() < 0.6 else rng.randrange(1, 3),
        refinements=rng.randrange(1, 3),
        agreement=agreement,
        first=rng.choice((0, 0, 0, agreement or 1)),
        template=rng.choice((None, None, "rsa")) if layout == "linear" else None,
        priority=rng.choice((0, 0, 0, 2)),
        cache_salt=rng.choice(("", "", "other")),
        seed=rng.randrange(100),
    )


def _with_timeouts(world: World, rng: Random, params: SelfRefineParams) -> SelfRefineParams:
    """Of the candidates, of all, or of both, of which either may be the first."""
    if rng.random() < 0.7:
        return params
    candidates, every = rng.choice(((1.0, None), (None, 1.0), (1.0, 2.0), (1.0, 1.0), (2.0, 1.0)))
    return replace(
        params,
        candidate_timeout=None if candidates is None else candidates * world.soon,
        timeout=None if every is None else every * world.soon,
    )


def _refine(world: World, rng: Random) -> None:
    params = _with_timeouts(world, rng, _refinement(world, rng))
    world.refine(rng.choice(world.problems), params, None)


def _refine_given(world: World, rng: Random) -> None:
    drawn = replace(_refinement(world, rng), agreement=0, first=0, order="shuffled")
    params = _with_timeouts(world, rng, drawn)
    given = [[rng.randrange(6, 9)] * rng.randrange(0, 20) for _ in range(params.k)]
    world.refine(rng.choice(world.problems), params, given)


def _two_engines(world: World, rng: Random) -> None:
    drawn = _refinement(world, rng)
    params = replace(drawn, layout="linear", order="shuffled", agreement=0, first=0)
    world.two_engines(rng.choice(world.problems), params)


def _fault(world: World, rng: Random) -> None:
    world.fault(rng.choice(world.faults), rng)


ACTIONS = (
    Action("step", 24, _step),
    Action("prompt", 2, _prompt),
    Action("turn", 1.5, _turn),
    Action("token", 0.5, _token),
    Action("refine", 2, _refine),
    Action("refine_given", 0.5, _refine_given),
    Action("two_engines", 0.05, _two_engines),
    Action("abort", 1, lambda world, rng: world.abort(rng)),
    Action("misuse", 0.2, lambda world, rng: world.misuse(rng)),
    Action("evict", 1, lambda world, _: world.evict()),
    Action("reload", 0.05, lambda world, _: world.reload()),
    Action("fault", 0.3, _fault),
)
"""Every action with its weight."""
_NAMES = {action.name: action for action in ACTIONS}


@dataclass(frozen=True, slots=True)
class Event:
    """One action of a history, with the seed of its choices."""

    name: str
    seed: int

    def happen(self, world: World) -> None:
        """Let it happen."""
        _NAMES[self.name].act(world, Random(self.seed))

    def __str__(self) -> str:
        return f"{self.name}:{self.seed}"

    @classmethod
    def read(cls, text: str) -> Event:
        """The event that was printed like this."""
        name, seed = text.split(":")
        return cls(name, int(seed))


def random_history(seed: int, length: int) -> list[Event]:
    """A history of that many actions."""
    rng = Random(seed)
    weights = [action.weight for action in ACTIONS]
    drawn = rng.choices(ACTIONS, weights, k=length)
    return [Event(action.name, rng.randrange(10**6)) for action in drawn]
