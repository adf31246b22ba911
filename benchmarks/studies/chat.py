"""The question that asks a chat model which never learnt to refine."""

from __future__ import annotations

from pathlib import Path

from benchmarks.studies.claims import Claim, less, no_more
from benchmarks.studies.question import (
    LINEAR,
    MAJORITY,
    REVIEWS,
    Answered,
    K,
    Question,
    Runs,
    TableOf,
    methods_table,
)
from benchmarks.studies.runs import CHAT, StudyRun

TIMES_TABLES = Path(__file__).with_name("times_tables.py")
_KS = (1, 2, K, 8, 16)
PROMPTED = StudyRun(
    name="chat",
    model=CHAT,
    task=str(TIMES_TABLES),
    count=242,
    options={
        "k": ",".join(map(str, _KS)),
        "methods": "greedy,selfref,fusion,repeated",
        "layouts": "linear",
        "temperature": 0.6,
        "max_tokens": 48,
    },
)


def _prompting(runs: Runs) -> Answered:
    run = runs["chat"]
    claims = [
        Claim(
            "Prompting alone gains no more than a majority vote.",
            REVIEWS,
            [
                no_more(f"{one} - {MAJORITY}", run.minus(one, MAJORITY))
                for one in (LINEAR, f"fusion@{K}")
            ],
        ),
        Claim(
            "Prompted with more candidates it falls behind the vote.",
            f"{REVIEWS}, of a trained model",
            [
                less(f"selfref linear@{k} - maj@{k}", run.minus(f"selfref linear@{k}", f"maj@{k}"))
                for k in _KS[3:]
            ],
        ),
    ]
    sweep = [
        {
            "k": str(k),
            **{one: str(run.accuracy(f"{one}@{k}")) for one in ("maj", "pass", "selfref linear")},
        }
        for k in _KS
    ]
    methods = [
        "pass@1",
        "greedy",
        MAJORITY,
        f"pass@{K}",
        LINEAR,
        f"{LINEAR} T=1",
        f"repeated linear@{K}",
        f"fusion@{K}",
    ]
    return Answered(
        claims,
        [
            methods_table(
                "Sums and products of two numbers from 2 to 12", [("chat model", run)], methods
            ),
            TableOf("Over k", sweep),
        ],
    )


CHATTED = (
    Question(
        name="prompting",
        title="A chat model that never learnt to refine",
        runs=(PROMPTED,),
        answer=_prompting,
        limits=(
            "SmolLM2-135M-Instruct is among the smallest chat models. It runs in 8 bits, a "
            "candidate has at most 48 tokens, and the last number of a text is its answer. Larger "
            "models follow an instruction to check better; the reviews' figure is of a 7B model."
        ),
    ),
)
