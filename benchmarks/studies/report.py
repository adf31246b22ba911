"""The report of the studies: claims with verdicts, figures with intervals, cost beside accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.studies.claims import Check
from benchmarks.studies.measured import Measured
from benchmarks.studies.question import Answered, Question, Runs

HEAD = """# The paper's questions

Claims of the GSR paper (arXiv 2509.00084) and of its reviewers, measured on models that this
repository trains, and on a small chat model that was not trained to refine. A claim *reproduces* if
the whole 95 % interval of every check lies where the claim says, and *does not* if that of one lies
outside. Else it *cannot be said*. Accuracies that differ by less than .02 are called equal.

Differences are paired by problem, and intervals are from a bootstrap clustered by problem. They
stand for one comparison each. A cell of a table says: accuracy [interval]; tokens computed per
problem, those of the candidates included / tokens generated one after the other. Refinements are
greedy.
"""


def markdown(answered: Sequence[tuple[Question, Answered]], runs: Runs) -> str:
    """The whole report."""
    parts = [HEAD, *_overview(answered)]
    for question, answer in answered:
        parts += _section(question, answer, runs)
    return "\n".join(parts)


def _overview(answered: Sequence[tuple[Question, Answered]]) -> Iterator[str]:
    rows = [
        {
            "question": f"[{question.name}](#{question.name})",
            "claim": claim.text,
            "here": f"**{claim.verdict}**",
        }
        for question, answer in answered
        for claim in answer.claims
    ]
    yield _table(rows)


def _section(question: Question, answer: Answered, runs: Runs) -> Iterator[str]:
    command = f"`python -m benchmarks.studies {question.name}`"
    yield f"\n## {question.name}\n\n{question.title}. {command}\n"
    for claim in answer.claims:
        yield f"**{claim.text}** ({claim.source}) – **{claim.verdict}**\n"
        yield _table([_check_row(one) for one in claim.checks]) + "\n"
    for table in answer.tables:
        yield f"{table.title}:\n\n{_table(table.rows)}\n"
    yield f"{question.limits}\n"
    yield _made(question, runs)


def _check_row(check: Check) -> dict[str, str]:
    return {
        "difference": check.text,
        "measured": "–" if check.interval is None else check.interval.signed,
        "the claim says": check.bounds,
        "": check.verdict,
    }


def _made(question: Question, runs: Runs) -> str:
    """What the runs took."""
    facts = [runs[one.name].run.facts for one in question.runs]
    seconds = sum(one["measured"]["seconds"] for one in facts)
    names = ", ".join(f"`{one.name}` ({_problems(runs[one.name])})" for one in question.runs)
    chip = facts[0]["machine"].get("cpu", "?")
    return f"Runs: {names}; {seconds / 60:.0f} minutes in all on {chip}.\n"


def _problems(measured: Measured) -> str:
    return f"{measured.resampling.num_problems:,} problems"


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[one] for one in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(_cell(one) for one in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
