"""The page of an audit: one HTML file that needs nothing else; every text in it is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.grading.audit import REASONS, Graded, Reason

_TAIL = 600
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
article { border: 1px solid #ccc; border-radius: 6px; padding: .5rem 1rem; margin: 1rem 0 }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: .5rem }
td, th { padding: .1rem .8rem .1rem 0; text-align: left; vertical-align: top }
th { white-space: nowrap }
.yes { color: #176d31 } .no { color: #a3262a } .none { color: #777 }
:root { color-scheme: light dark }
@media (prefers-color-scheme: dark) { .yes { color: #6c6 } .no { color: #f77 } }
"""


def audit_page(items: Sequence[tuple[Reason, Graded]], counts: Mapping[Reason, int]) -> str:
    """The page.

    Args:
        items: what to look at; those of one reason stand together.
        counts: answers near the border by reason, shown or not.
    """
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Audit of answers</title>",
        '<meta name=viewport content="width=device-width">',
        f"<style>{_STYLE}</style><h1>Audit of {len(items)} answers near the border</h1>",
        "<table><tr><th>why<th>distinct answers<th>shown here</tr>",
    ]
    for reason, about in REASONS.items():
        shown = sum(one == reason for one, _ in items)
        parts.append(f"<tr><td>{escape(about)}<td>{counts[reason]}<td>{shown}</tr>")
    parts.append("</table>")
    number = 0
    for reason, about in REASONS.items():
        own = [item for one, item in items if one == reason]
        if own:
            parts.append(f"<h2>{escape(about.capitalize())}</h2>")
        for item in own:
            number += 1
            parts.append(_article(number, item))
    return "\n".join(parts) + "\n"


def _article(number: int, item: Graded) -> str:
    solution = item.solution
    verdicts = [("the run", item.right), *item.verdicts.items()]
    said = " · ".join(f"{escape(name)} {_verdict(right)}" for name, right in verdicts)
    where = escape(f"{item.run}, {item.id}, {item.method}")
    stated = "none was found" if solution.answer is None else solution.answer
    tail = solution.text[-_TAIL:]
    whole = "" if tail == solution.text else _details("its whole text", solution.text)
    return (
        f"<article><h3>{number}. {where}</h3>"
        f"<table><tr><th>gold<td><code>{escape(item.gold)}</code></tr>"
        f"<tr><th>answer<td><code>{escape(stated)}</code></tr>"
        f"<tr><th>verdicts<td>{said}</tr>"
        f"<tr><th>ended by<td>{escape(solution.finish_reason)}</tr></table>"
        f"{_details('the problem', item.problem)}"
        f"<pre>{'' if tail == solution.text else '… '}{escape(tail)}</pre>{whole}</article>"
    )


def _details(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary><pre>{escape(text)}</pre></details>"


def _verdict(right: bool | None) -> str:
    name, text = {True: ("yes", "right"), False: ("no", "wrong"), None: ("none", "not asked")}[
        right
    ]
    return f"<span class={name}>{text}</span>"
