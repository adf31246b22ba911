"""The data card of a hybrid set, `card.json` and `card.md`: what is in it, and what was dropped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from train.dataset import Split, row_kinds

PERCENTILES = (5, 25, 50, 75, 95, 99, 100)
_PACKAGES = ("gsr-engine", "datasets", "pyarrow", "tokenizers", "transformers")


def describe(
    splits: Mapping[Split, datasets.Dataset], dropped: Mapping[str, int]
) -> dict[str, Any]:
    """The counts of every split, the counts of dropped rows, versions and date."""
    return {
        "splits": {name: _describe_split(rows) for name, rows in splits.items()},
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        "versions": {name: version(name) for name in _PACKAGES},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _describe_split(rows: datasets.Dataset) -> dict[str, Any]:
    """Counts of rows by stratum, and percentiles of their tokens.

    Rows are counted by k and by right candidates only if they show candidates.
    """
    columns = rows.select_columns(
        [
            "objective",
            "layout",
            "k",
            "num_correct",
            "source",
            "problem_id",
            "length",
            "target_start",
        ]
    ).with_format("arrow")[:]
    layouts = columns["layout"].to_pylist()
    kinds = row_kinds(columns["objective"].to_pylist(), layouts)
    lengths = columns["length"].to_numpy()
    targets = lengths - columns["target_start"].to_numpy()
    numbers = {
        name: [n for n, shown in zip(columns[name].to_pylist(), layouts, strict=True) if shown]
        for name in ("k", "num_correct")
    }
    return {
        "rows": len(rows),
        "problems": len(set(columns["problem_id"].to_pylist())),
        "tokens": int(lengths.sum()),
        "target_tokens": int(targets.sum()),
        "by_kind": _counts(kinds),
        "by_k": _counts(numbers["k"]),
        "by_num_correct": _counts(numbers["num_correct"]),
        "by_source": _counts(columns["source"].to_pylist()),
        "length_percentiles": _percentiles(kinds, lengths),
        "target_percentiles": _percentiles(kinds, targets),
    }


def _counts(values: Sequence[Any]) -> dict[str, int]:
    """Rows by value; keys are text, because JSON needs that."""
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _percentiles(kinds: Sequence[str], tokens: npt.NDArray[Any]) -> dict[str, dict[str, int]]:
    of = np.array(kinds)
    return {
        kind: {
            str(q): int(value)
            for q, value in zip(
                PERCENTILES, np.percentile(tokens[of == kind], PERCENTILES), strict=True
            )
        }
        for kind in sorted(set(kinds))
    }


def save_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the card for machines and for people."""
    text = json.dumps(card, indent=1, ensure_ascii=False, default=str)
    (folder / "card.json").write_text(text + "\n", encoding="utf-8")
    (folder / "card.md").write_text(_markdown(card), encoding="utf-8")


def _markdown(card: dict[str, Any]) -> str:
    lines = ["# Data card", "", f"Written {card['date']}.", ""]
    for name, split in card["splits"].items():
        lines += [
            f"## {name}",
            "",
            f"{split['rows']:,} rows of {split['problems']:,} problems; "
            f"{split['tokens']:,} tokens, {split['target_tokens']:,} of them learnt.",
            "",
        ]
        strata = {
            "kind": "by_kind",
            "candidates shown": "by_k",
            "right candidates (-1: unchecked)": "by_num_correct",
            "target by": "by_source",
        }
        for title, key in strata.items():
            lines += _table((title, "rows"), split[key].items())
        for title, key in (("row", "length_percentiles"), ("target", "target_percentiles")):
            header = (f"tokens of a {title}, percentile", *map(str, PERCENTILES))
            lines += _table(header, ((kind, *of.values()) for kind, of in split[key].items()))
    lines += ["## Dropped", "", *_table(("reason", "count"), card["dropped"].items())]
    encoded = card["sets_encoded_from_text"]
    lines += ["## Sets encoded from their text", "", *_table(("reason", "count"), encoded.items())]
    known = {name: card[name] for name in ("template_hash", "tokenizer_hash", "fingerprint")}
    for title, values in (
        ("Settings", card["settings"]),
        ("Made with", {**known, **card["versions"]}),
    ):
        lines += [f"## {title}", "", *_table(("name", "value"), values.items())]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Any) -> list[str]:
    def line(cells: Sequence[Any]) -> str:
        shown = (f"{one:,}" if type(one) is int else str(one) for one in cells)
        return f"| {' | '.join(shown)} |"

    body = [line(row) for row in rows]
    return [line(header), line(["---"] * len(header)), *body, ""] if body else ["None.", ""]
