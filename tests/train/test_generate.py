"""Generation by the engine: draws that can be named, and workers that are killed at any point."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest

from gsr_engine import Engine, InvalidRequest, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.digest import tokenizer_digest
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.evaluation.grader import ExactGrader
from tests.helpers.drawers import contents
from train.generate import SamplesFailed, run
from train.generation.drawer import Ask, DrawConfig
from train.generation.engine_drawer import EngineDrawer, runs
from train.generation.job import GenerationJob, open_store
from train.generation.questions import (
    Question,
    direct_prompts,
    load_refine_prompts,
    prompt_ids,
    prompt_text,
)
from train.generation.store import Store
from train.generation.worker import Tally, generate
from train.problems import Problem
from train.samples import Sample, read_samples

pytestmark = pytest.mark.slow

PROBLEMS = [Problem(f"q{i}", f"{chr(97 + i)} {i} + {i * i}", str(i + i * i)) for i in range(9)]
REFINE = [Question("r0", "1 + 1", "2", ("It is 3.", "It is 2.")), Question("r1", "2", None, ("4",))]


@pytest.fixture(scope="module")
def engine(qwen2: Path) -> Iterator[Engine]:
    with Engine.from_pretrained(qwen2, prefix_cache=False, max_num_seqs=6) as one:
        yield one


@pytest.fixture(scope="module")
def config(qwen2: Path) -> DrawConfig:
    tokenizer = tokenizer_digest(qwen2)
    return DrawConfig(model=str(qwen2), tokenizer=tokenizer, max_tokens=24, seed=5)


def fill(
    engine: Engine, folder: Path, config: DrawConfig, prompts: list[Question], n: int
) -> Tally:
    store = Store(folder, config, prompts, n, shard_size=4)
    return generate(store, EngineDrawer(engine, config), ExactGrader())


def test_a_sample_is_the_engines_own_draw(
    engine: Engine, config: DrawConfig, qwen2: Path, tmp_path: Path
) -> None:
    prompts = direct_prompts(PROBLEMS)
    fill(engine, tmp_path, config, prompts, 2)
    fill(engine, tmp_path, config, prompts, 8)  # more than it decodes at a time
    records = {(one["id"], one["sample"]): one for one in read_samples(tmp_path)}
    assert len(records) == 8 * len(prompts)
    for prompt in prompts[:3]:
        params = SamplingParams(n=6, max_tokens=24, seed=config.prompt_seed(prompt))
        (expected,) = engine.generate([engine.direct_prompt(prompt.problem)], params)
        for completion in expected.completions:
            record = records[prompt.id, completion.index]
            assert record["token_ids"] == completion.content_ids
            assert record["text"] == completion.text
            assert record["logprob"] == completion.logprob
            assert record["finish_reason"] == completion.finish_reason
            assert record["num_tokens"] == len(completion.token_ids)
            assert record["source"] == config.model
            assert record["tokenizer"] == config.tokenizer == tokenizer_digest(qwen2)
    assert len({one["text"] for one in records.values()}) > len(prompts) * 4


def test_refinements_read_what_the_engine_reads(
    engine: Engine, config: DrawConfig, tmp_path: Path
) -> None:
    fill(engine, tmp_path, config, REFINE, 1)
    texts = [one["text"] for one in read_samples(tmp_path)]
    for prompt, text in zip(REFINE, texts, strict=True):
        ids = prompt_ids(prompt, engine.prompts)
        refine = SelfRefineParams(
            order="as_generated", refine=SamplingParams(temperature=0.0, max_tokens=24)
        )
        with pytest.warns(UserWarning, match="gsr.json"):
            (result,) = engine.self_refine(
                [prompt.problem], refine, [list(prompt.candidates or ())]
            )
        (greedy,) = engine.generate([ids], SamplingParams(temperature=0.0, max_tokens=24))
        assert result.refinement is not None
        assert greedy.completions[0].token_ids == result.refinement.token_ids
        params = SamplingParams(max_tokens=24, seed=config.prompt_seed(prompt))
        assert engine.generate([ids], params)[0].completions[0].text == text


@pytest.mark.parametrize("prompt", [*direct_prompts(PROBLEMS[:1]), *REFINE])
def test_a_server_is_asked_in_the_same_words(engine: Engine, prompt: Question) -> None:
    text = prompt_text(prompt, GsrConfig().template)
    mine = prompt_ids(prompt, engine.prompts)
    assert engine.tokenizer.chat([{"role": "user", "content": text}]) == mine


def test_what_the_engine_cannot_serve_is_a_failed_sample(
    engine: Engine, config: DrawConfig, tmp_path: Path
) -> None:
    prompts = [Question("long", "x" * 2000), Question("short", "x")]
    tally = fill(engine, tmp_path, config, prompts, 2)
    assert tally.failed == 2
    long, *_, short = read_samples(tmp_path)
    assert "too many" in long["error"]
    assert short["error"] == ""


def test_tokens_of_unfinished_samples_are_known(engine: Engine, config: DrawConfig) -> None:
    drawer = EngineDrawer(engine, config)
    prompt = direct_prompts(PROBLEMS)[0]
    drawer.submit(Ask(prompt, "key", range(3)))
    assert drawer.num_running_tokens == 0
    running, drawn = [], list[Sample]()
    while len(drawn) < 3:
        drawn += drawer.finished()
        running.append(drawer.num_running_tokens)
    assert running[:2] == [3, 6]
    assert running[-1] == 0


def test_numbers_are_asked_for_in_runs_of_neighbours() -> None:
    assert list(runs([2, 3, 4, 7, 9, 10], 2)) == [(2, 2), (4, 1), (7, 1), (9, 2)]
    assert list(runs([], 2)) == []


def test_candidate_sets_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    file = tmp_path / "refine.jsonl"
    good = {"id": "r0", "problem": "1 + 1", "answer": "2", "layout": "linear", "extra": 1}
    good["candidates"] = ["It is 3.", "It is 2."]
    file.write_text(json.dumps(good) + "\n")
    assert load_refine_prompts(file) == REFINE[:1]
    for bad, says in (
        ({"candidates": []}, "candidates must be"),
        ({"candidates": [1]}, "must be text"),
        ({"id": None}, "must be text"),
        ({"layout": "branched"}, "layout must be linear"),
    ):
        file.write_text(json.dumps(good) + "\n" + json.dumps({**good, **bad}) + "\n")
        with pytest.raises(InvalidRequest, match=f"line 2: .*{says}"):
            load_refine_prompts(file)
    file.write_text("\n")
    with pytest.raises(InvalidRequest, match="holds no candidate set"):
        load_refine_prompts(file)


def test_a_run_whose_samples_all_failed_is_no_success(qwen2: Path, tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"id": "long", "problem": "x" * 2000, "answer": "1"}) + "\n")
    job = GenerationJob(task="direct", data=str(data), model=str(qwen2), out=tmp_path / "out", n=2)
    with pytest.raises(SamplesFailed, match="all 2 samples failed"):
        run(job, 1)


def work(model: Path, folder: Path, config: DrawConfig, n: int) -> None:
    """A worker that is to be killed."""
    with Engine.from_pretrained(model, prefix_cache=False, max_num_seqs=6) as engine:
        fill(engine, folder, config, direct_prompts(PROBLEMS), n)


def test_workers_killed_at_any_point_leave_the_same_set(
    engine: Engine, qwen2: Path, config: DrawConfig, tmp_path: Path
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    fill(engine, whole, config, direct_prompts(PROBLEMS), 8)

    def written() -> int:
        size = 0
        for file in folder.glob("*.jsonl"):
            with suppress(FileNotFoundError):  # the worker takes a shard's parts away
                size += file.stat().st_size
        return size

    forkserver = get_context("forkserver")  # which imports torch once
    forkserver.set_forkserver_preload(["tests.train.test_generate"])
    rng, killed = random.Random(0), 0
    for _ in range(6):
        worker = forkserver.Process(target=work, args=(qwen2, folder, config, 8))
        worker.start()
        enough = written() + rng.randrange(1, 8000)
        while written() < enough and worker.is_alive():
            time.sleep(0.001)
        worker.kill()
        worker.join()
        killed += worker.exitcode == -signal.SIGKILL
    fill(engine, folder, config, direct_prompts(PROBLEMS), 8)
    # A worker may die between finishing a shard and taking its parts away: nobody reads them.
    assert contents(folder).items() >= contents(whole).items()
    assert list(read_samples(folder)) == list(read_samples(whole))
    assert killed >= 3  # or the test shows nothing


def command(model: Path, data: Path, out: Path, *options: str) -> list[str]:
    ask = ["--data", str(data), "--model", str(model), "--out", str(out), "--n", "4"]
    limits = ["--max-tokens", "24", "--streams", "4", "--shard-size", "2", "--dtype", "float32"]
    return [sys.executable, "-m", "train.generate", "direct", *ask, *limits, *options]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "problems.jsonl"
    rows = [{"id": p.id, "question": p.text, "answer": p.answer} for p in PROBLEMS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def some_worker(out: Path, process: subprocess.Popen[str]) -> int:
    """The process of the first worker that has a shard."""
    while process.poll() is None:
        for lease in out.glob("*.lease"):
            with suppress(FileNotFoundError, ValueError):  # just gone, not yet written
                _, worker, _ = lease.read_text().split()
                return int(worker)
        time.sleep(0.001)
    raise AssertionError("nobody worked")


def test_local_workers_are_restarted_and_the_command_says_how_it_went(
    qwen2: Path, data: Path, tmp_path: Path
) -> None:
    out, columns = tmp_path / "out", ("--columns", "problem=question")
    words = command(qwen2, data, out, *columns, "--workers", "2")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        os.kill(some_worker(out, process), signal.SIGKILL)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert "ended with -9: started again" in said
    assert "36/36 samples (100.0%)" in said
    assert len(list(read_samples(out))) == 36


def test_sigterm_gives_the_shards_back(qwen2: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = command(qwen2, data, out, "--columns", "problem=question")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while not list(out.glob("*.part-*")) and process.poll() is None:
            time.sleep(0.001)
        process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 143, said
    assert "goes on" in said
    assert not list(out.glob("*.lease"))


def test_other_prompts_than_the_checkpoints(qwen2: Path, data: Path, tmp_path: Path) -> None:
    """A gsr.json may hold variables of the chat template alone; they count for what is drawn."""
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "gsr.json").write_text('{"template": {"chat_template_kwargs": {"m": 1}}}')
    columns = ("--columns", "problem=question", "--limit", "1")
    for out, more in (("own", ()), ("other", ("--prompts", str(prompts)))):
        words = command(qwen2, data, tmp_path / out, *columns, *more)
        subprocess.run(words, check=True, capture_output=True)
    keys = [{one["key"] for one in read_samples(tmp_path / out)} for out in ("own", "other")]
    assert not keys[0] & keys[1]


def test_prompts_without_an_answer_form_are_refused(tmp_path: Path) -> None:
    (tmp_path / "gsr.json").write_text(json.dumps({"template": "plain"}))
    (tmp_path / "problems.jsonl").write_text(json.dumps({"problem": "1 + 1", "answer": "2"}))
    job = GenerationJob(
        task="direct",
        data=str(tmp_path / "problems.jsonl"),
        model="served",
        out=tmp_path / "out",
        base_url="http://127.0.0.1:1",
        prompts=tmp_path,
    )
    with pytest.raises(InvalidRequest, match="prompts: the template 'plain' states no answer form"):
        open_store(job)
