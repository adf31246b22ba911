"""The hybrid set's form on disk: what is written is read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsr_engine import InvalidRequest
from train.dataset import Example, RowSet, read_parts, write_part, write_split
from train.rows import Row

ids = st.lists(st.integers(0, 200_000), min_size=1, max_size=12)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    before, target = draw(ids), draw(ids)
    if draw(st.booleans()):
        return Example(Row("direct", before + target, len(before)), "π", source="teacher")
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    shown = [7] * sum(lengths)
    row = Row(
        "refine",
        before + shown + target,
        len(before) + len(shown),
        len(before),
        lengths,
        len(before) + max(lengths),
    )
    return Example(row, "p", "branched", len(lengths), -1)


@settings(max_examples=20, deadline=None)
@given(written=st.lists(examples(), min_size=2, max_size=8))
def test_rows_are_read_back_as_they_were(
    written: list[Example], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("set")
    parts = [folder / "0.arrow", folder / "1.arrow"]
    write_part(parts[0], written[:1])
    write_part(parts[1], written[1:])
    write_split(folder, "train", read_parts(parts))
    rows = RowSet.load(folder)
    assert len(rows) == len(written)
    assert rows.objectives == [one.row.objective for one in written]
    assert rows.layouts == [one.layout for one in written]
    assert rows.lengths.tolist() == [len(one.row) for one in written]
    assert rows.num_targets.tolist() == [one.row.num_targets for one in written]
    assert rows.num_correct.tolist() == [one.num_correct for one in written]
    for index, one in enumerate(written):
        row = rows[index]
        assert list(row.token_ids) == list(one.row.token_ids)
        assert row.target_start == one.row.target_start
        assert np.array_equal(row.positions, one.row.positions)
        assert np.array_equal(row.branches, one.row.branches)


def test_a_part_is_whole_or_not_there(tmp_path: Path) -> None:
    def interrupted() -> object:
        yield Example(Row("direct", [1, 2], 1), "p")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_part(tmp_path / "part.arrow", interrupted())  # type: ignore[arg-type]
    assert not (tmp_path / "part.arrow").exists()


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no held_out split"):
        RowSet.load(tmp_path, "held_out")


@pytest.mark.parametrize("size", [0, 100, -50])
def test_a_damaged_split_is_named(tmp_path: Path, size: int) -> None:
    row = Row("direct", [1, 2, 3], 1)
    write_part(tmp_path / "0.arrow", [Example(row, "p")])
    write_split(tmp_path, "train", read_parts([tmp_path / "0.arrow"]))
    (file,) = (tmp_path / "train").glob("*.arrow")
    data = file.read_bytes()
    file.write_bytes(data[:size])
    with pytest.raises(InvalidRequest, match=r"data: .*train is damaged"):
        RowSet.load(tmp_path)
