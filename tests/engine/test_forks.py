"""A fork of the process that made an engine gets an error, and never waits for lost threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

PROGRAM = """
import asyncio, os, signal, traceback, warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
import torch
from gsr_engine import AsyncEngine, Engine, EngineForked, SamplingParams, final_result
from gsr_engine.demo.report import NANO

warnings.simplefilter("ignore")  # Python's own about forks
SAMPLING = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)
load = partial(Engine.from_pretrained, NANO, dtype="float32", device="cpu", kv_cache_gib=0.01)

def forked(call):
    try:
        call()
    except EngineForked:
        return True
    return False

def fresh(**options):
    with load(**options) as engine:
        return engine.generate("1", SAMPLING)[0].completions[0].token_ids

def fresh_in_thread(**options):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work_of_two).result()
        return pool.submit(fresh, **options).result()

def work_of_two():
    torch.set_num_threads(2)
    torch.ones(1 << 20).exp().sum()

async def ask(engine):
    return await final_result(engine.generate("1", SAMPLING))

async def stats(engine):
    return await engine.stats()

async def close(engine):
    async with engine:
        pass

def child():
    for call in (
        lambda: parents.generate("1", SAMPLING),
        parents.step,
        lambda: parents.submit(request),
        lambda: parents.abort(request),
        lambda: parents.reload_weights(NANO),
        lambda: asyncio.run(ask(server)),
        lambda: asyncio.run(stats(server)),
        server.step_seconds,
        partial(load, threads=2),
    ):
        assert forked(call)
    asyncio.run(close(server))
    parents.close()
    assert fresh(threads=1) == fresh_in_thread(threads=2) == expected
    assert forked(parents.step)  # closed or not

parents = load(threads=2)
server = AsyncEngine(load(threads=2))
work_of_two()
request = parents.new_generate("1", SAMPLING)
expected = parents.generate("1", SAMPLING)[0].completions[0].token_ids
asyncio.run(ask(server))
pid = os.fork()
if pid == 0:
    signal.alarm(60)  # ends it wherever it hangs
    status = 1
    try:
        child()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
parents.run([request])  # the parent goes on
assert asyncio.run(ask(server)).completions[0].token_ids == expected
asyncio.run(close(server))
print("done")
"""


def test_a_fork_gets_an_error_and_the_parent_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
