"""Why a build has nothing left, in words: the counts of what was left out, and what helps."""

from __future__ import annotations

from collections.abc import Mapping

_WORDS = {
    "candidate: failed": "candidates failed or are empty",
    "candidate: truncated": "candidates were cut at max_tokens (--keep-truncated shows them)",
    "candidate: of another problem": "candidates are of none of the problems (do the ids agree?)",
    "candidate without a summary": "candidates have no text after their thinking",
    "problem with too few candidates": "problems have fewer than {least} candidates (--k)",
    "set: easy": "sets have a right majority and none has a wrong one (--no-balance keeps them)",
    "direct: no target": "problems have no target (a solution, or --direct-targets)",
    "refine: no target": "sets have no target (a solution, or --refine-targets)",
    "refine: problem left out": "sets are of no problem that may be learnt from",
    "direct: too long": "direct rows are too long (--max-tokens)",
    "refine: too long": "refinement rows are too long (--max-tokens)",
    "direct: held out": "direct rows are held out (--held-out)",
    "refine: held out": "refinement rows are held out (--held-out)",
    "direct: mix": "direct rows, but no refinement row (--mix 1 takes direct rows alone)",
    "refine: mix": "refinement rows, but no direct row (--mix 0 takes refinement rows alone)",
    "problem: ngram": "problems share n-grams with evaluation problems (--decontaminate)",
    "problem: exact": "problems are evaluation problems (--decontaminate)",
    "problem: duplicate": "problems are there already",
}
for _name in ("direct", "refine"):
    _WORDS |= {
        f"{_name} target: failed": f"{_name} targets failed or are empty",
        f"{_name} target: truncated": f"{_name} targets were cut at max_tokens",
        f"{_name} target: unchecked": f"{_name} targets have no gold answer (--keep-unchecked)",
        f"{_name} target: wrong": f"{_name} targets are wrong",
    }


def in_words(dropped: Mapping[str, int], **values: object) -> str:
    """The counts by reason as one text; `values` are put into it."""
    texts = [
        f"{count:,} {_WORDS.get(reason, reason).format(**values)}"
        for reason, count in sorted(dropped.items())
        if count
    ]
    return ", ".join(texts) or "there was nothing to make it of"
