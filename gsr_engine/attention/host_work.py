"""A work list in host memory, and as one vector that a single copy moves to the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from csrc_triton import WorkList
from csrc_triton.arrays import IntArray
from csrc_triton.worklist import aligned
from gsr_engine.step.transfer import to_device

ITEM_SIZE = 6
"""Numbers of an item; see `csrc_triton.WorkList`."""


@dataclass(frozen=True, slots=True)
class HostWork:
    """A work list in host memory; see `csrc_triton.WorkList`. All arrays are int32."""

    items: IntArray
    row_ids: IntArray
    partial_ranges: IntArray
    partial_ids: IntArray
    page_table: IntArray
    max_rows_per_item: int

    @property
    def num_rows(self) -> int:
        """The number of rows, one per token that a stream decodes."""
        return len(self.partial_ranges)

    def packed(self, num_rows: int, num_entries: int) -> IntArray:
        """All arrays as one vector, padded to these sizes; `unpacked` is the inverse."""
        sizes = _sections(num_rows, num_entries)
        vector = np.zeros(sum(sizes) + len(self.page_table), dtype=np.int32)
        count, items, row_ids, partial_ids, ranges, page_table = np.split(vector, np.cumsum(sizes))
        count[0] = len(self.items)
        items[: self.items.size].reshape(-1, ITEM_SIZE)[:] = self.items
        row_ids[: len(self.row_ids)] = self.row_ids
        partial_ids[: len(self.partial_ids)] = self.partial_ids
        ranges[: self.partial_ranges.size] = self.partial_ranges.reshape(-1)
        page_table[:] = self.page_table
        return vector

    def on(self, device: torch.device) -> WorkList:
        """The same list on a device, without padding."""
        rows, entries = self.num_rows, len(self.row_ids)
        vector = to_device(self.packed(rows, entries), device)
        return unpacked(vector, rows, entries, self.max_rows_per_item)


def packed_size(num_rows: int, num_entries: int) -> int:
    """Length of a packed list without its page table; see `HostWork.packed`."""
    return sum(_sections(num_rows, num_entries))


def unpacked(
    vector: torch.Tensor, num_rows: int, num_entries: int, max_rows_per_item: int
) -> WorkList:
    """A work list whose tensors are views of a packed int32 vector.

    The page table comes last and takes the rest of the vector, so its length may vary.
    """
    sizes = _sections(num_rows, num_entries)
    count, items, row_ids, partial_ids, ranges, page_table = vector.split(
        [*sizes, len(vector) - sum(sizes)]
    )
    return WorkList(
        items=items[: ITEM_SIZE * num_entries].view(-1, ITEM_SIZE),
        num_items=count[:1],
        row_ids=row_ids[:num_entries],
        page_table=page_table,
        partial_ranges=ranges[: 2 * num_rows].view(-1, 2),
        partial_ids=partial_ids[: num_entries + num_rows],
        max_rows_per_item=max_rows_per_item,
    )


def _sections(num_rows: int, num_entries: int) -> list[int]:
    """Lengths of a packed list's sections but the page table; each begins at 16 bytes.

    Every row has a place among the partials that it may grow into.
    """
    numbers = [1, ITEM_SIZE * num_entries, num_entries, num_entries + num_rows, 2 * num_rows]
    return [aligned(number) for number in numbers]
