"""Lists of numbers that come, grow and go, in one flat table: the page table of a work list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csrc_triton.arrays import IntArray, begins_of, run_indices

_SLACK = 4
"""Of the table, one part in so many may belong to lists that are gone."""
_LEAST = 256


def table_room(live: int) -> int:
    """The longest table of lists with this much room together."""
    return live + live // _SLACK + _LEAST


class FlatLists:
    """Lists in one flat table; each has a number, a place, a length and room to grow.

    Places move only in `add`, `grow` and `compact`.

    Attributes:
        begins: of each list, where it begins in the table.
        lengths: of each list.
        rooms: of each list, how long it may get; 0 for a number without a list.
    """

    def __init__(self) -> None:
        self.begins, self.lengths, self.rooms = np.zeros((3, 0), dtype=np.int64)
        self._table = np.zeros(_LEAST, dtype=np.int32)
        self._used = self._live = 0
        self._free: list[int] = []

    @property
    def table(self) -> IntArray:
        """All lists, and what is left of those that are gone; int32."""
        return self._table[: self._used]

    def add(self, values: Sequence[int], room: int) -> int:
        """The number of a new list; its room is at least its length."""
        if not self._free:
            known = len(self.rooms)
            self.begins, self.lengths, self.rooms = (
                np.append(one, np.zeros(known + 8, dtype=np.int64))
                for one in (self.begins, self.lengths, self.rooms)
            )
            self._free.extend(range(known, len(self.rooms)))
        number = self._free.pop()
        self.begins[number] = begin = self._reserve(room)
        self.rooms[number], self.lengths[number] = room, len(values)
        self._table[begin : begin + len(values)] = values
        return number

    def remove(self, number: int) -> None:
        """Forget a list; its number may be used again."""
        self._live -= int(self.rooms[number])
        self.rooms[number] = 0
        self._free.append(number)

    def values(self, number: int) -> list[int]:
        """The values of a list."""
        begin = int(self.begins[number])
        values: list[int] = self._table[begin : begin + int(self.lengths[number])].tolist()
        return values

    def put(self, number: int, first: int, values: Sequence[int]) -> None:
        """Set the values of a list from its value `first` on; they are its last ones."""
        begin = int(self.begins[number]) + first
        self._table[begin : begin + len(values)] = values
        self.lengths[number] = first + len(values)

    def grow(self, number: int, room: int) -> None:
        """Give a list more room, in another place."""
        old, length = int(self.begins[number]), int(self.lengths[number])
        self._live -= int(self.rooms[number])
        self.begins[number] = begin = self._reserve(room)
        self.rooms[number] = room
        self._table[begin : begin + length] = self._table[old : old + length]

    def compact(self) -> None:
        """Close the gaps, if they take too much of the table."""
        if self._used <= table_room(self._live):
            return
        kept = self.rooms.nonzero()[0]
        rooms = self.rooms[kept]
        self._table[: self._live] = self._table[run_indices(self.begins[kept], rooms)]
        self.begins[kept] = begins_of(rooms)
        self._used = self._live

    def _reserve(self, room: int) -> int:
        begin, self._used = self._used, self._used + room
        self._live += room
        if self._used > len(self._table):
            self._table = np.append(self._table, np.zeros(self._used, dtype=np.int32))
        return begin
