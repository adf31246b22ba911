"""One HTML file that needs nothing else: style, scripts and data are in it.

Data are JSON in script elements that no browser runs. The texts of every sample have an element of
their own, which the page reads when they are looked at.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gsr_engine
from benchmarks.report.blocks import Block, Report, Table
from benchmarks.report.rows import OUTCOMES, Texts, compared_at, compared_ks, marks_of, texts_of
from benchmarks.samples.folder import Run
from train.files import whole_file

_FOLDER = Path(__file__).parent / "page"
_LOOK = Path(gsr_engine.__file__).parent / "serving/http/page/look.css"
_STYLE = re.compile(r'<link rel="stylesheet" href="([\w.]+)">')
_SCRIPT = re.compile(r'<script src="([\w.]+)"></script>')
_DATA = "<!-- data -->"


def write_document(
    path: Path, reports: Sequence[Report], runs: Sequence[Run], overview: Table | None = None
) -> None:
    """Write the page of these runs.

    Args:
        path: the HTML file.
        reports: of the runs, in the same order.
        runs: whose samples can be looked at.
        overview: of several runs.
    """
    before, after = _page().split(_DATA)
    texts = Texts.of(runs)
    with whole_file(path, "wb") as file:
        file.write(before.encode())
        for element in _data(reports, runs, texts, overview):
            # What is no Unicode, half of a pair, becomes an escape, which JSON has, too.
            file.write(element.encode(errors="backslashreplace"))
        file.write(after.encode())


def _data(
    reports: Sequence[Report], runs: Sequence[Run], texts: Texts, overview: Table | None
) -> Iterator[str]:
    whole = {
        "overview": overview and _block(overview),
        "outcomes": OUTCOMES,
        "shortened": texts.limit,
        "runs": [_run(*one) for one in zip(reports, runs, strict=True)],
    }
    yield _element("data", whole)
    for number, run in enumerate(runs):
        for index, sample in enumerate(run.samples):
            yield _element(f"texts-{number}-{index}", texts_of(run, sample, texts))


def _run(report: Report, run: Run) -> dict[str, Any]:
    headline = run.settings["headline"]
    return {
        **asdict(report),
        "blocks": [_block(one) for one in report.blocks],
        "headline": headline,
        "chosen": _chosen(run),
        "ks": compared_ks(run),
        "methods": [{"name": one.name, "k": compared_at(one, headline)} for one in run.methods],
        "samples": marks_of(run),
    }


def _block(block: Block) -> dict[str, Any]:
    return {"kind": type(block).__name__, **asdict(block)}


def _chosen(run: Run) -> str | None:
    """The method that the browser begins with: a refinement at the run's headline k."""
    k = run.settings["headline"]
    refining = [one.name for one in run.methods if one.kind == "selfref" and one.k == k]
    return next(iter(refining or [one.name for one in run.methods]), None)


def _element(name: str, value: Any) -> str:
    """A text in it ends no element and begins no comment: `<` is an escape in JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _page() -> str:
    """The page with its files in place of the links to them, and the policy that allows only these.

    The policy allows no request at all, and refuses text that becomes markup.
    """
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def put_in(tag: str, path: Path) -> str:
        text = path.read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[tag].append(f"'sha256-{digest}'")
        return f"<{tag}>{text}</{tag}>"

    html = (_FOLDER / "index.html").read_text(encoding="utf-8")
    html = _STYLE.sub(
        lambda link: put_in("style", _LOOK if link[1] == _LOOK.name else _FOLDER / link[1]), html
    )
    html = _SCRIPT.sub(lambda link: put_in("script", _FOLDER / link[1]), html)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src {' '.join(hashes['style'])}",
            f"script-src {' '.join(hashes['script'])}",
            "img-src data:",  # the icon
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        )
    )
    return html.replace("<!-- policy -->", policy, 1)
