"""Phase 2: `gsr serve` as a process that gets SIGTERM while a crowd asks."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import suppress

import httpx

from tests.chaos.http.clients import Crowd, Tally
from tests.chaos.http.questions import MOST_BODY, TEXT, Question
from tests.chaos.http.wire import Address, Answer, Connection
from tests.chaos.http.world import HttpWorld, Log
from tests.helpers.serve_process import SOON, Process

_LONG = {"prompt": "12*34", "max_tokens": 1200, "ignore_eos": True, "temperature": 1.0}
_SHORT = {"prompt": "12*34", "max_tokens": 2}


def end_under_load(seed: int, clients: int, seconds: float, delay: float = 3.0) -> Tally:
    """Let a crowd ask a process that is told to end, and look at what became of each question.

    Raises:
        AssertionError: what came before the process refused requests was not answered, or the
            process did not end as it should.
    """
    room = str(clients + 10)  # a full queue is the business of phase 1
    limits = ("--max-pending", room, "--max-body-bytes", str(MOST_BODY))
    stages = ("--shutdown-delay", str(delay), "--shutdown-timeout", "120")
    process = Process(*limits, *stages, "--kv-cache-gib", "0.05")
    try:
        host, port = process.url.removeprefix("http://").split(":")
        tally = asyncio.run(_terminated((host, int(port)), process, seed, clients, seconds))
        status = process.status()
    finally:
        process.child.kill()
        process.status()
    assert status == 0, "".join(process.log[-20:])
    assert "aborted" not in tally.errors, "somebody in flight was aborted"
    assert "Traceback" not in "".join(process.log), "".join(process.log)
    return tally


async def _terminated(
    address: Address, process: Process, seed: int, clients: int, seconds: float
) -> Tally:
    crowd = Crowd(HttpWorld(seed), seed, Log(), lambda: _refuses(process))
    asking = asyncio.create_task(crowd.live(address, clients))
    await asyncio.wait([asking], timeout=seconds)
    long = [asyncio.create_task(_ask(address, {**_LONG, "stream": one})) for one in (False, True)]
    await asyncio.sleep(0.5)
    process.signal(signal.SIGTERM)
    await _until_not_ready(address)
    short = await _ask(address, {**_SHORT, "priority": -1000})
    assert short.status == 200, f"a request was not taken any more: {short}"
    await _until_refusing(process)
    with suppress(OSError, AssertionError):  # it may have ended
        refused = await _ask(address, _SHORT)
        if refused.status != 503 or "retry-after" not in refused.headers:
            raise RuntimeError(f"a request was taken too late: {refused}")
    await asking
    whole, streamed = [await one for one in long]
    assert json.loads(whole.body)["usage"]["completion_tokens"] == _LONG["max_tokens"]
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    assert b'"error"' not in streamed.body
    return crowd.tally


async def _ask(address: Address, body: dict[str, object]) -> Answer:
    question = Question("own", json.dumps(body).encode(), 1, TEXT)
    answer = await Connection(question).ask(address)
    assert answer is not None
    return answer


async def _until_not_ready(address: Address) -> None:
    host, port = address
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=SOON) as client:
        async with asyncio.timeout(SOON):
            while (await client.get("/ready")).status_code != 503:
                await asyncio.sleep(0.02)
        assert (await client.get("/health")).status_code == 200


async def _until_refusing(process: Process) -> None:
    async with asyncio.timeout(SOON):
        while not _refuses(process):
            await asyncio.sleep(0.02)


def _refuses(process: Process) -> bool:
    return any("requests are refused" in line for line in process.log)
