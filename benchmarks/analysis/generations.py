"""Methods that generated answers of their own: refinements, fusion, greedy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.analysis.candidates import Candidates
from benchmarks.analysis.intervals import Floats
from benchmarks.analysis.outcome import Cost, Outcome
from benchmarks.samples.folder import Run
from benchmarks.samples.method import Method
from benchmarks.samples.sample import Answer
from gsr_engine.errors import InvalidRequest
from gsr_engine.outputs import CUT


def answers_of(run: Run, method: Method) -> list[Answer]:
    """What a method made of every sample.

    Raises:
        InvalidRequest: a sample has no answer of it.
    """
    answers = []
    for sample in run.samples:
        try:
            answers.append(sample.answer_of(method.name))
        except KeyError:
            raise InvalidRequest(
                "run", f"problem {sample.id} of repeat {sample.repeat} has no answer {method.name}"
            ) from None
    return answers


def generated(run: Run, candidates: Candidates, method: Method) -> Outcome:
    """The outcome of one method.

    Its cost holds the candidates that it needs: none for greedy, one that is repeated, else k; in a
    mixed pool those of the problem's own that others replace. A refinement adds the tokens it
    computed: the linear layout reads candidates again, the branched one does not. If the generator
    told none, or is a server, those are all tokens of its prompts and all it generated: a server
    computes less of a prompt that another method left in its prefix cache, which is chance.

    Raises:
        InvalidRequest: a sample has no answer of the method, or too few candidates for it.
    """
    answers = answers_of(run, method)
    told = np.array([float(one.computed_tokens) for one in answers])
    if run.settings.get("endpoint") and not run.settings.get("refiner"):
        told[:] = 0.0
    needed = {"greedy": 0, "repeated": 1}.get(method.kind, method.k)
    if needed > candidates.drawn:
        raise InvalidRequest(
            "run", f"{method.name} reads {needed} candidates, and {candidates.drawn} were drawn"
        )
    return Outcome(
        name=method.name,
        family=_family(method),
        k=method.k,
        hits=np.array([float(one.correct) for one in answers]),
        cost=_cost(candidates.tokens[:, :needed].astype(float), candidates, answers, told),
        method=method,
    )


def _family(method: Method) -> str:
    if method.kind not in ("selfref", "fusion"):
        return method.name
    warmth = f" T={method.temperature:g}" if method.temperature else ""
    return " ".join(filter(None, (method.kind, method.layout))) + warmth


def _cost(needed: Floats, candidates: Candidates, answers: Sequence[Answer], told: Floats) -> Cost:
    """Of the candidates that are needed, samples × candidates, and of the answers.

    `told` are the tokens computed for each answer; 0 if nobody says.
    """
    written = np.array([float(one.generated_tokens) for one in answers])
    read = np.array([float(one.prompt_tokens) for one in answers])
    prompt = candidates.prompt.astype(float)
    drawn = needed.sum(axis=1)
    if needed.shape[1]:
        total = prompt + drawn + np.where(told > 0, told, read + written)
        read = prompt + read
    else:  # the direct prompt, and nothing before it
        total, read = prompt + written, prompt
    return Cost(
        generated=drawn + written,
        prompt=read,
        total=total,
        sequential=needed.max(axis=1, initial=0.0)
        + np.array([float(one.sequential_tokens) for one in answers]),
        cut=np.array([float(one.finish_reason in CUT) for one in answers]),
        unanswered=np.array([float(one.answer is None) for one in answers]),
    )
