"""A store of samples on a file system that any number of workers share.

    FOLDER/settings.json          the settings of the samples; other settings are refused
    FOLDER/00003.lease            a worker has this shard of the prompts
    FOLDER/00003.part-*.jsonl     samples that one worker drew so far, append only
    FOLDER/00003.n8.jsonl         the shard is finished: 8 samples of each prompt, in order

A killed worker leaves a part behind, perhaps with a torn last line. The next worker of the shard
goes on with a part of its own, so each file has one writer. A finished shard is written aside,
synced, and linked under its name at once; its other files are then not read.

Two workers may draw the same sample if a lease was stolen from a worker that only slept. Both ask
the same question with the same seed. The first to finish the shard wins, so readers always see one
set of its samples.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from gsr_engine.errors import InvalidRequest
from train.files import claim
from train.generation.drawer import Ask, DrawConfig
from train.generation.lease import Lease, Leases
from train.generation.questions import Question
from train.samples import FINISHED, Place, Sample, is_failed, sample_lines, unique_samples

SHARD_SIZE = 512


class Store:
    """The samples of some prompts, n of each.

    A later run may raise n: existing samples stay. A lower n leaves finished shards as they are.

    Args:
        folder: created if necessary.
        config: settings that shape the samples.
        prompts: always the same ones, in the same order.
        n: samples of each prompt.
        shard_size: prompts of a shard.
        lease_seconds: a worker without a heartbeat for this long loses its shards.
        retry_failed: failed samples of unfinished shards count as missing.

    Raises:
        InvalidRequest: two prompts share an id, or a number is out of range.
        CheckpointError: the folder holds samples of other settings or prompts.
    """

    def __init__(
        self,
        folder: Path,
        config: DrawConfig,
        prompts: Sequence[Question],
        n: int,
        *,
        shard_size: int = SHARD_SIZE,
        lease_seconds: float = 300.0,
        retry_failed: bool = False,
    ) -> None:
        for name, value in (("n", n), ("shard_size", shard_size)):
            if value < 1:
                raise InvalidRequest(name, f"must be at least 1, got {value}")
        self.folder = folder
        self.config = config
        self.n = n
        self.lease_seconds = lease_seconds
        self.retry_failed = retry_failed
        asks = [Ask(prompt, config.key(prompt), range(n)) for prompt in prompts]
        _refuse_twins(asks)
        self._shards = [asks[i : i + shard_size] for i in range(0, len(asks), shard_size)]
        self._leases = Leases(lease_seconds)
        keys = hashlib.sha256("".join(ask.key for ask in asks).encode()).hexdigest()[:16]
        settings = {"prompts": len(asks), "keys": keys, "shard_size": shard_size}
        claim(folder / "settings.json", {**asdict(config), **settings}, "other samples")

    @property
    def num_shards(self) -> int:
        """Shards of the store."""
        return len(self._shards)

    @property
    def num_samples(self) -> int:
        """Samples of the complete store."""
        return self.n * sum(map(len, self._shards))

    def num_finished(self) -> int:
        """Samples of finished shards."""
        return self.n * sum(len(self._shards[index]) for index in self._finished())

    def complete(self, among: Collection[int] | None = None) -> bool:
        """Whether all shards (or some) are finished."""
        wanted = range(self.num_shards) if among is None else among
        return self._finished().issuperset(wanted)

    def claim(self, among: Collection[int] | None = None) -> Shard | None:
        """A shard (of `among`) that no other worker has; None if there is none now."""
        finished = self._finished()
        for index in range(self.num_shards) if among is None else among:
            if index in finished:
                continue
            lease = self._leases.take(self.folder / f"{index:05}.lease")
            if lease is None:
                continue
            if index in self._finished():  # in the meantime
                lease.release()
                continue
            try:
                return Shard(self, index, self._shards[index], lease)
            except FileNotFoundError:  # the worker that had lost the lease finishes it after all
                lease.release()
        return None

    def release(self) -> None:
        """Free all shards that were claimed here; their samples so far stay."""
        self._leases.release()

    def _finished(self) -> set[int]:
        found = map(FINISHED.fullmatch, os.listdir(self.folder))
        return {int(name[1]) for name in found if name and int(name[2]) >= self.n}

    def reopen_failed(self) -> None:
        """Make finished shards with failed samples unfinished again.

        Once, before workers with `retry_failed` begin.
        """
        for name in sorted(filter(FINISHED.fullmatch, os.listdir(self.folder))):
            file = self.folder / name
            with suppress(FileNotFoundError):  # another host does the same
                if any(is_failed(record) for _, record in sample_lines(file)):
                    shard = name.partition(".")[0]
                    file.rename(self.folder / f"{shard}.part-{secrets.token_hex(8)}.jsonl")


class Shard:
    """A shard that a worker has, and its samples so far.

    Attributes:
        missing: samples that were missing when the shard was claimed.
        num_missing: samples that are missing now.
        num_samples: samples of the complete shard.
    """

    def __init__(self, store: Store, index: int, asks: Sequence[Ask], lease: Lease) -> None:
        self.index = index
        self._store = store
        self._asks = asks
        self._lease = lease
        self._places: dict[tuple[str, int], Place] = {}
        self._part: int | None = None
        self._part_path = self._path(f"part-{secrets.token_hex(8)}.jsonl")
        self._part_size = 0
        self._load()
        self.missing = [ask for ask in map(self._missing, asks) if ask.samples]
        self.num_missing = sum(len(ask.samples) for ask in self.missing)
        self.num_samples = store.n * len(asks)

    def _path(self, name: str) -> Path:
        return self._store.folder / f"{self.index:05}.{name}"

    def _files(self) -> list[Path]:
        """Parts, and finished files of a lower n."""
        names = (self._path("n*.jsonl"), self._path("part-*.jsonl"))
        return [file for name in names for file in sorted(self._store.folder.glob(name.name))]

    def _load(self) -> None:
        keys = {ask.prompt.id: ask.key for ask in self._asks}
        for place, record in unique_samples(self._files()):
            again = self._store.retry_failed and is_failed(record)
            if keys.get(record["id"]) == record["key"] and not again:
                self._places[record["id"], record["sample"]] = place

    def _missing(self, ask: Ask) -> Ask:
        missing = [i for i in ask.samples if (ask.prompt.id, i) not in self._places]
        return Ask(ask.prompt, ask.key, missing)

    def write(self, sample: Sample) -> None:
        """Append a sample by one write, unless the shard has it."""
        if (sample.id, sample.index) in self._places:
            return
        if self._part is None:
            flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY
            self._part = os.open(self._part_path, flags, 0o644)
        line = sample.as_line()
        if os.write(self._part, line) != len(line):
            raise OSError(f"{self._part_path}: the file system is full")
        self._places[sample.id, sample.index] = (self._part_path, self._part_size, len(line))
        self._part_size += len(line)
        self.num_missing -= 1

    def renew(self) -> bool:
        """Keep the shard; False if another worker has it now."""
        return self._lease.renew()

    def release(self) -> None:
        """Free the shard for others; its samples so far stay."""
        if self._part is not None:
            os.close(self._part)
            self._part = None
        self._lease.release()

    def finish(self) -> None:
        """Replace the parts by the finished file, unless another worker has the shard now."""
        done = self._path(f"n{self._store.n}.jsonl")
        partial = self._path(f"partial-{secrets.token_hex(8)}")
        try:
            if self.renew():
                self._merge(partial)
                os.link(partial, done)  # unlike a rename, it never replaces a file
                _sync(self._store.folder)
        except (FileExistsError, FileNotFoundError):
            pass  # the worker that stole the lease has finished it and removed the parts
        finally:
            partial.unlink(missing_ok=True)
        if done.exists():
            crashed = self._store.folder.glob(self._path("partial-*").name)
            for file in {*self._files(), *crashed} - {done}:
                file.unlink(missing_ok=True)
        self.release()

    def _merge(self, target: Path) -> None:
        files: dict[Path, int] = {}
        try:
            with target.open("wb") as merged:
                for ask in self._asks:
                    for sample in range(self._store.n):
                        path, offset, length = self._places[ask.prompt.id, sample]
                        if path not in files:
                            files[path] = os.open(path, os.O_RDONLY)
                        merged.write(os.pread(files[path], length, offset))
                merged.flush()
                os.fsync(merged.fileno())
        finally:
            for file in files.values():
                os.close(file)


def _refuse_twins(asks: Sequence[Ask]) -> None:
    seen: set[str] = set()
    for ask in asks:
        if ask.prompt.id in seen:
            raise InvalidRequest("data", f"two prompts have the id {ask.prompt.id!r}")
        seen.add(ask.prompt.id)


def _sync(folder: Path) -> None:
    """Make new names durable too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
