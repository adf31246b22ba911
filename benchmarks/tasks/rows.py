"""Problems of a data set, as a task asks them: each has an id of its own, and says its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

from benchmarks.tasks.task import BenchmarkProblem, Source
from gsr_engine.errors import InvalidRequest
from train.problems import Problem, located_problems


def load_rows(
    source: Source,
    hub: str | None = None,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    size: Callable[[Problem], str] = lambda problem: problem.size,
) -> list[BenchmarkProblem]:
    """The problems of `source.data`, or of the task's own data set.

    Args:
        source: what was asked for.
        hub: id of the task's data set; None if it has none.
        split: of that data set, unless `source` names one.
        columns: of that data set; those of `source` go before them.
        size: what a problem's results are grouped by, unless the source names a column for it.

    Returns:
        One per row. A row without a problem or an answer has an error that says its place.

    Raises:
        InvalidRequest: as `iterate_problems`; there is no data or no row; or two rows have an id
            in common, and then the message names both.
    """
    data = source.data or hub
    if data is None:
        raise InvalidRequest("data", "needs a file with problems and answers, or a hub id")
    own = source.data is None
    named = {**(columns or {} if own else {}), **source.columns}
    if source.size_field:
        named["size"] = source.size_field
    problems: list[BenchmarkProblem] = []
    places: dict[str, str] = {}

    def bad_row(where: str, reason: str) -> None:
        problems.append(BenchmarkProblem(id=where, text="", gold="", error=reason))

    rows = located_problems(data, named, source.split or (split if own else "train"), bad_row)
    for where, one in islice(rows, source.count):
        if one.id in places:
            raise InvalidRequest("data", f"{places[one.id]} and {where} have the same id {one.id}")
        places[one.id] = where
        problems.append(
            BenchmarkProblem(
                id=one.id,
                text=one.text,
                gold=one.answer or "",
                size=one.size if "size" in named else size(one),
                error="" if one.answer is not None else f"{where} has no answer",
            )
        )
    if not problems:
        raise InvalidRequest("data", f"{data} holds no problems")
    return problems[: source.count]
