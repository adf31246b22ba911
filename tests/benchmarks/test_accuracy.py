"""Small accuracy runs: any checkpoint, any problems, every method."""

from __future__ import annotations

import json
import multiprocessing as mp
import random
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import run as run_module
from benchmarks.accuracy.__main__ import AccuracyCommand, main
from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.engine_generator import EngineGenerator
from benchmarks.accuracy.journal import Journal
from benchmarks.samples.folder import RUN, SAMPLES, Run, read_run
from benchmarks.tasks.puzzles import puzzle_problems
from gsr_engine import Engine, GsrConfig, InvalidRequest
from gsr_engine.checkpoint.digest import tokenizer_digest, weights_digest
from gsr_engine.demo.report import NANO
from tests.helpers.accuracy_runs import EVERY, accuracy, unmeasured, write_sums
from train.command import Interrupted, show_log

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_sums(tmp_path / "data.jsonl")


@pytest.fixture(scope="module")
def whole(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    accuracy(qwen2, write_sums(folder / "data.jsonl"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def every(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of every method, in one repeat."""
    folder = tmp_path_factory.mktemp("every")
    accuracy(
        checkpoints["qwen2"],
        write_sums(folder / "data.jsonl"),
        folder / "run",
        methods=EVERY,
        repeats=1,
        k="1,4",
        layouts="linear,branched",
        force_layout=True,
        weak_model=str(checkpoints["qwen3"]),
        pools="weak:.5;foreign:.25,.5;truncated:.5;corrupted:1",
    )
    return read_run(folder / "run")


def test_repeats_draw_anew_and_the_first_is_as_if_alone(
    whole: Path, qwen2: Path, data: Path, tmp_path: Path
) -> None:
    run = read_run(whole)
    ids = [(sample.repeat, sample.id) for sample in run.samples]
    assert ids == [(0, "p0"), (0, "p1"), (1, "p0"), (1, "p1")]
    first, again = run.samples[0], run.samples[2]
    assert [one.token_ids for one in first.candidates] != [
        one.token_ids for one in again.candidates
    ]
    accuracy(qwen2, data, tmp_path / "alone", repeats=1)
    alone = read_run(tmp_path / "alone")
    assert unmeasured(alone)[1] == unmeasured(run)[1][:2]


def test_a_run_says_how_it_was_made(whole: Path, qwen2: Path) -> None:
    run = read_run(whole)
    expected = {
        "task": "file",
        "weights": weights_digest(qwen2),
        "tokenizer": tokenizer_digest(qwen2),
        "template": GsrConfig().template.hash,
        "dtype": "float32",
        "max_tokens": 12,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 3,
        "k": [1, 3],
        "headline": 3,
        "repeats": 2,
        "refiner": None,
        "endpoint": None,
        "reward_model": None,
    }
    assert expected.items() <= run.settings.items()
    assert run.facts["machine"].keys() >= {"torch", "cpu"}
    assert "date" not in run.facts["machine"]  # measured: another run has another
    cost = run.facts["measured"]["cost"]["linear"]
    assert cost["phases"]["refine_prefill"]["tokens_reused"] > 0
    assert cost["seconds"] > 0


def test_every_method_reads_what_it_says(every: Run) -> None:
    names = [method.name for method in every.methods]
    sample = every.samples[0]
    assert [answer.method for answer in sample.answers] == names
    used = {answer.method: answer.used for answer in sample.answers}
    pools = {answer.method: answer.pools for answer in sample.answers if answer.pools}
    own = used["selfref linear@4"]
    assert sorted(own) == [0, 1, 2, 3]
    assert used["greedy"] == used["rounds linear 4x4x1"] == []
    assert used["repeated linear@4"] == [0, 0, 0, 0]
    assert used["views linear@4"] == used["fusion@4"] == own  # one seed, one order
    orders = [used[f"orders linear@4 #{number}"] for number in (1, 2, 3)]
    assert orders == [own[shift:] + own[:shift] for shift in (1, 2, 3)]
    replaced = (("weak", 2, ".50"), ("foreign", 3, ".25"), ("truncated", 2, ".50"))
    for pool, own_ones, share in replaced:
        for layout in ("linear", "branched"):
            name = f"mixed {layout}@4 {pool} {share}"
            assert pool in pools[name]
            for number, one in zip(used[name], pools[name], strict=True):
                assert one == ("own" if number < own_ones else pool)
    assert len(sample.weak) == 4
    for answer in sample.answers:
        assert answer.error is None
        assert answer.computed_tokens > answer.generated_tokens > 0
        assert answer.prompt_tokens > 0
        assert len(answer.logprobs) == answer.tokens
    rounds = sample.answer_of("rounds linear 4x4x1")
    assert rounds.generated_tokens > rounds.sequential_tokens >= 2 * rounds.tokens > 0


def test_what_given_candidates_cost_is_what_generated_ones_do(tmp_path: Path) -> None:
    """Up to the last tokens, of which the candidates of the cost run have others."""
    main(
        AccuracyCommand(
            k="4", limit=3, seed=5, max_tokens=120, out=tmp_path / "run", dtype="float32"
        )
    )
    run = read_run(tmp_path / "run")
    for layout in ("linear", "branched"):
        phases = run.facts["measured"]["cost"][layout]["phases"]
        end_to_end = sum(phases[name]["tokens_computed"] for name in phases if "refine" in name)
        name = f"selfref {layout}@4"
        given = sum(sample.answer_of(name).computed_tokens for sample in run.samples)
        assert given == pytest.approx(end_to_end, rel=0.05)


@pytest.mark.parametrize(("widths", "subset"), [("4", 2), ("1", 1), ("2,2", 4)])
def test_answers_cost_what_they_would_behind_the_candidates(widths: str, subset: int) -> None:
    """To the token, in every layout; and for another model all that it reads."""
    problems = puzzle_problems("test", 1, 2)
    config = AccuracyConfig(
        k="4", methods="selfref,rounds", widths=widths, subset=subset, max_tokens=120
    )
    with Engine.from_pretrained(NANO, dtype="float32", prefix_cache=False) as engine:
        writer = EngineGenerator(engine, problems, config)
        refiner = EngineGenerator(engine, problems, config, writes=False)
        for method in config.chosen_methods(writer.layouts):
            whole = dict(writer.end_to_end_each(method, 1, range(2)))
            given = {index: one.candidates for index, one in whole.items()}
            answers = dict(writer.answer_each(method, 1, range(2), given))
            foreign = dict(refiner.answer_each(method, 1, range(2), given))
            for index, one in whole.items():
                phases = [one.phases[name] for name in one.phases if "refine" in name]
                end_to_end = sum(phase["tokens_computed"] for phase in phases)
                assert answers[index].token_ids == one.answer.token_ids
                assert answers[index].computed_tokens == end_to_end
                if method.kind == "selfref":
                    read = one.answer.prompt_tokens + one.answer.tokens - 1
                    assert foreign[index].computed_tokens >= read  # the last is not read again
                else:
                    assert foreign[index].computed_tokens > end_to_end


@pytest.mark.parametrize("results", [1, 7, 20])
def test_an_interrupted_run_goes_on_to_the_same_samples(
    results: int, qwen2: Path, data: Path, whole: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Interrupted before a result, at last by a kill that tore a line."""
    out, add = tmp_path / "run", Journal.add
    file = out / "journal" / "results.jsonl"

    def interrupted(journal: Journal, *result: Any) -> None:
        if len(journal) == results:
            raise KeyboardInterrupt
        add(journal, *result)

    monkeypatch.setattr(Journal, "add", interrupted)
    with pytest.raises(Interrupted, match="interrupted; the same command goes on"):
        accuracy(qwen2, data, out)
    assert not (out / RUN).exists()
    assert len(file.read_text().splitlines()) == results
    with file.open("a") as torn:
        torn.write('[17, 0, "greedy", 0, {"err')
    monkeypatch.undo()
    accuracy(qwen2, data, out, resume=True)
    assert unmeasured(read_run(out)) == unmeasured(read_run(whole))
    assert not file.parent.exists()


def test_a_run_that_is_killed_again_and_again_ends_the_same(
    qwen2: Path, data: Path, whole: Path, tmp_path: Path
) -> None:
    """SIGKILL at random moments: after random numbers of results, and while it starts."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng, out = random.Random(seed), tmp_path / "run"
    file = out / "journal" / "results.jsonl"
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.accuracy.__main__"])
    kills = 0
    for most in sorted(rng.sample(range(1, 28), 3)):
        process = context.Process(target=accuracy, args=(qwen2, data, out))
        process.start()
        while process.is_alive() and _lines(file) < most:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.01)
        kills += process.is_alive()
        process.kill()
        process.join()
    print(f"killed {kills} times")
    accuracy(qwen2, data, out)
    assert unmeasured(read_run(out)) == unmeasured(read_run(whole))
    (results,) = out.glob("results_*.json")
    assert {one.name for one in out.iterdir()} == {RUN, SAMPLES, results.name}


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_a_run_that_ends_between_its_files_goes_on(
    qwen2: Path, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "run", run_module.write_run

    def half(folder: Path, facts: Any, samples: Any) -> None:
        write(folder, facts, samples)
        (folder / RUN).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "write_run", half)
    with pytest.raises(Interrupted):
        accuracy(qwen2, data, out)
    monkeypatch.undo()
    monkeypatch.setattr(Engine, "step", lambda _: 1 / 0)  # nothing is generated again
    accuracy(qwen2, data, out)
    assert unmeasured(read_run(out)) == unmeasured(read_run(whole))


def test_another_configuration_is_refused_by_name(
    qwen2: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "missing", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # it ends before its first result
            accuracy(qwen2, data, out, k="2", methods="greedy")
    accuracy(qwen2, data, out, methods="greedy")  # so it keeps nothing from another run
    for changed, name in (
        ({"max_tokens": 13}, "max_tokens"),
        ({"k": "1"}, "k"),
        ({"limit": 1}, "problems"),
        ({"methods": "greedy,selfref"}, "methods"),
    ):
        options: dict[str, Any] = {"methods": "greedy", **changed}
        with pytest.raises(InvalidRequest, match=f"out: .* holds a run with another .*{name}="):
            accuracy(qwen2, data, out, **options)


def test_a_finished_run_is_not_done_again(
    whole: Path, qwen2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Engine, "step", lambda _: 1 / 0)
    before = (whole / SAMPLES).read_bytes()
    accuracy(qwen2, whole.parent / "data.jsonl", whole, resume=True)
    assert "maj@3" in capsys.readouterr().out
    assert (whole / SAMPLES).read_bytes() == before
    monkeypatch.setattr(Engine, "from_pretrained", lambda _: 1 / 0)
    main(AccuracyCommand(run=whole))
    printed = capsys.readouterr().out
    assert "maj@3" in printed
    assert "nan" not in printed


def test_what_can_be_refused_is_before_the_first_token(
    qwen2: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "step", lambda _: 1 / 0)
    out = tmp_path / "run"
    for refused, changed in {
        "layout: the checkpoint was not trained for 'branched'": {"layouts": "linear,branched"},
        "max_tokens: must be an integer from 1": {"max_tokens": 0},
        "temperature: must be a number": {"temperature": -1.0},
        "resume: .* holds no run": {"resume": True},
        "task: must be one of aime24|task: must be one of puzzles": {"task": "aime1924"},
        "pools: weak candidates need a --weak-model": {"methods": "mixed", "pools": "weak:1"},
        "weak_model: is for --methods mixed": {"weak_model": str(qwen2)},
    }.items():
        with pytest.raises(InvalidRequest, match=refused):
            accuracy(qwen2, data, out, **changed)
    with pytest.raises(InvalidRequest, match="methods: fusion@3 asks by the prompts 'agglm'"):
        accuracy(NANO, data, out, methods="fusion")
    with pytest.raises(InvalidRequest, match=r"out: .* is a file, and a run is a folder"):
        accuracy(qwen2, data, data)
    data.write_text('{"problem": " ", "answer": "1"}\n')
    with pytest.raises(InvalidRequest, match=r"no problem can be asked; .* line 1: problem"):
        accuracy(qwen2, data, out)
    assert list(tmp_path.iterdir()) == [data]


def test_a_bad_row_is_named_and_left_out(
    qwen2: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [{"problem": " "}, *({"id": f"long {digit}", "problem": digit * 900} for digit in "98")]
    lines = [json.dumps({**row, "answer": "1"}) for row in bad]
    data.write_text("\n".join([lines[0], *data.read_text().splitlines(), *lines[1:]]))
    show_log()
    out = tmp_path / "run"
    accuracy(qwen2, data, out, limit=6, methods="greedy,selfref", repeats=1)
    run = read_run(out)
    assert [sample.id for sample in run.samples] == ["p0", "p1", "p2"]
    assert [name for name, _ in run.facts["left_out"]] == [f"{data} line 1", "long 9", "long 8"]
    text = " ".join(capsys.readouterr().err.split())
    assert "line 1 is left out: problem" in text
    assert "problem long 8 is left out" in text
