"""Questions: a problem to solve, or a problem with candidates to refine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gsr_engine.errors import InvalidRequest
from gsr_engine.programs.template import Template
from gsr_engine.text.problem_prompts import ProblemPrompts
from gsr_engine.text.prompts import Prompts
from train.files import read_jsonl
from train.problems import Problem


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        id: unique in its store.
        answer: the gold answer; None if it is unknown.
        candidates: solutions to refine, in the order shown; None asks for a direct solution.
    """

    id: str
    problem: str
    answer: str | None = None
    candidates: tuple[str, ...] | None = None


def direct_prompts(problems: Iterable[Problem]) -> list[Question]:
    """Ask for direct solutions of problems."""
    return [Question(problem.id, problem.text, problem.answer) for problem in problems]


def load_refine_prompts(path: Path) -> list[Question]:
    """Ask for refinements of the candidate sets that `train.build refine` wrote.

    Raises:
        InvalidRequest: a line is not such a set (the message names file and line), or there is
            none.
    """
    prompts = []
    for where, row, *_ in read_jsonl(path):
        candidates, answer = row.get("candidates"), row.get("answer")
        texts = (row.get("id"), row.get("problem"), *([] if answer is None else [answer]))
        if not (isinstance(candidates, list) and candidates):
            raise InvalidRequest("data", f"{where}: candidates must be a list of texts")
        if not all(isinstance(text, str) for text in (*texts, *candidates)):
            raise InvalidRequest("data", f"{where}: id, problem, answer, candidates must be text")
        if row.get("layout", "linear") != "linear":
            raise InvalidRequest("data", f"{where}: layout must be linear, got {row['layout']!r}")
        prompts.append(Question(row["id"], row["problem"], answer, tuple(candidates)))
    if not prompts:
        raise InvalidRequest("data", f"{path} holds no candidate set")
    return prompts


def prompt_ids(prompt: Question, prompts: Prompts) -> list[int]:
    """The question as token ids of a checkpoint."""
    problem = ProblemPrompts(prompts, prompt.problem)
    if prompt.candidates is None:
        return problem.direct
    return problem.linear([prompts.solution(one) for one in prompt.candidates])


def prompt_text(prompt: Question, template: Template) -> str:
    """The same words as one user message, for a server that applies its own chat template."""
    problem = prompt.problem.strip()
    if prompt.candidates is None:
        return problem + template.direct
    texts = template.shows(len(prompt.candidates))
    candidates = enumerate(prompt.candidates, 1)
    shown = "".join(texts.before(number) + candidate for number, candidate in candidates)
    again = "" if texts.restate is None else texts.restate + problem
    return texts.opening + problem + texts.preamble + shown + texts.linear + again
