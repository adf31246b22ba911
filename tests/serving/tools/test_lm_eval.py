"""lm-eval on nano's puzzles: it reads what the engine writes, and its scores are the model's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gsr_engine import AsyncEngine, Engine, SamplingParams, SelfRefineParams
from gsr_engine.demo.puzzles import ANSWER_PATTERN, Mix, Puzzle, sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.serving import Settings, create_app
from tests.helpers.live_server import live
from tests.helpers.scraped import Scraped
from tests.serving.tools.conftest import SERVED, Run, commands

pytestmark = [pytest.mark.tools, pytest.mark.xdist_group("lm-eval")]

CHAT, GSR, TEXT, REFINED_TEXT = commands("lm-eval")
PUZZLES = sample_puzzles("test", 3, 6, Mix(digits=(10,), factors=(3,)))
SEED = 1234
"""What lm-eval sends unless told otherwise; its temperature is 0."""
MOST = 200
STOP = "\n\n"
RENDERED = "<bos><user>{{problem}}<assistant>"
GENERATION: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {
        "until": [STOP],
        "do_sample": False,
        "temperature": 0,
        "max_gen_toks": MOST,
    },
    "filter_list": [
        {
            "name": "answer",
            "filter": [
                {"function": "regex", "regex_pattern": ANSWER_PATTERN},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{[wrong, solution]}}",
    "doc_to_target": 1,
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}


def wrong(puzzle: Puzzle) -> str:
    """A solution that forgets every carry."""
    return puzzle.thinking + puzzle.trace(lambda line, carry: 0)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three tasks on the same puzzles."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "problem": one.problem,
            "answer": one.answer,
            "solution": one.solution,
            "wrong": wrong(one),
        }
        for one in PUZZLES
    ]
    data = folder / "puzzles.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for name, text, kind in (
        ("chat", "{{problem}}", GENERATION),
        ("text", RENDERED, GENERATION),
        ("choice", RENDERED, CHOICE),
    ):
        task = {
            "task": f"puzzles_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "doc_to_text": text,
            **kind,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML
    return folder


@pytest.fixture
def server(nano: AsyncEngine) -> Iterator[str]:
    """nano with metrics of its own."""
    with live(create_app(nano, settings=Settings(model_name="nano"))) as url:
        yield url


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.from_pretrained(NANO, threads=1, kv_cache_gib=0.05) as engine:
        yield engine


class Evaluated:
    """What one evaluation left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def samples(self, task: str) -> list[dict[str, Any]]:
        """What was asked and answered, in the order of the puzzles."""
        (path,) = self._folder.rglob(f"samples_puzzles_{task}_*.jsonl")
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        samples.sort(key=lambda sample: sample["doc_id"])
        assert [sample["doc"]["problem"] for sample in samples] == [one.problem for one in PUZZLES]
        return samples

    def texts(self, task: str) -> list[str]:
        return [sample["resps"][0][0] for sample in self.samples(task)]

    def score(self, task: str, metric: str) -> float:
        (path,) = self._folder.rglob("results_*.json")
        found = json.loads(path.read_text())["results"][f"puzzles_{task}"]
        return float(found[metric])


def evaluate(
    run_tool: Run, command: str, tasks: Path, server: str, folder: Path, *names: str
) -> Evaluated:
    """Run a documented command on some of the tasks instead of its own."""
    replaced = {
        re.findall(r"--tasks \S+", command)[
            0
        ]: f"--tasks {','.join(f'puzzles_{n}' for n in names)}",
        SERVED: server,
    }
    out = folder / "out"
    run_tool(command, replaced, "--include_path", str(tasks), "--output_path", str(out), "-s")
    return Evaluated(out)


def refined(engine: Engine, problems: list[Any], k: int, temperature: float) -> list[str]:
    """The engine's own refinements; the candidates of most problems differ."""
    params = SelfRefineParams(
        k=k,
        seed=SEED,
        candidate=SamplingParams(temperature=temperature, max_tokens=MOST, stop=STOP),
        refine=SamplingParams(temperature=0.0, max_tokens=MOST, stop=STOP),
    )
    # One by one: in one call each problem would get a seed of its own.
    results = [engine.self_refine([problem], params)[0] for problem in problems]
    differing = [len({one.text for one in result.candidates}) > 1 for result in results]
    assert sum(differing) > len(problems) / 2
    return [result.text for result in results]


def share_right(texts: list[str]) -> float:
    """The share of the answers that are right."""
    found = [re.search(ANSWER_PATTERN, text) for text in texts]
    right = [
        answer is not None and answer[1] == puzzle.answer
        for answer, puzzle in zip(found, PUZZLES, strict=True)
    ]
    return sum(right) / len(right)


MESSAGES: list[Any] = [[{"role": "user", "content": one.problem}] for one in PUZZLES]


def test_a_refinement_by_the_models_id(
    run_tool: Run, tasks: Path, server: str, tmp_path: Path, engine: Engine
) -> None:
    """It sends temperature 0 and one seed for all; still candidates differ."""
    evaluated = evaluate(run_tool, CHAT, tasks, server, tmp_path, "chat")
    texts = evaluated.texts("chat")
    assert texts == refined(engine, MESSAGES, 4, 1.0)
    assert evaluated.score("chat", "exact_match,answer") == pytest.approx(share_right(texts))
    assert share_right(texts) > 0
    metrics = Scraped(server)
    assert metrics.total("gsr_requests_total") == len(PUZZLES)
    assert metrics.total("gsr_requests_total", method="selfref", status="200") == len(PUZZLES)


def test_a_refinement_by_arguments_of_generation(
    run_tool: Run, tasks: Path, server: str, tmp_path: Path, engine: Engine
) -> None:
    texts = evaluate(run_tool, GSR, tasks, server, tmp_path, "chat").texts("chat")
    assert texts == refined(engine, MESSAGES, 8, 0.8)
    assert Scraped(server).total("gsr_requests_total", method="selfref") == len(PUZZLES)


def test_texts_and_multiple_choice(
    run_tool: Run, tasks: Path, server: str, tmp_path: Path, engine: Engine
) -> None:
    evaluated = evaluate(run_tool, TEXT, tasks, server, tmp_path, "text", "choice")
    params = SamplingParams(temperature=0.0, max_tokens=MOST, stop=STOP)
    expected = [result.completions[0].text for result in engine.chat(MESSAGES, params)]
    assert evaluated.texts("text") == expected
    assert evaluated.score("text", "exact_match,answer") == pytest.approx(share_right(expected))
    # A request for each continuation, besides one for each text.
    assert Scraped(server).total("gsr_requests_total", method="plain") == 3 * len(PUZZLES)

    likelier = 0
    for sample, puzzle in zip(evaluated.samples("choice"), PUZZLES, strict=True):
        found = [(float(one[0][0]), one[0][1] in (True, "True")) for one in sample["resps"]]
        true = [likelihood(puzzle.problem, text) for text in (wrong(puzzle), puzzle.solution)]
        for (sum_logprobs, is_greedy), (of_model, by_argmax) in zip(found, true, strict=True):
            assert sum_logprobs == pytest.approx(of_model, abs=2e-3)
            assert is_greedy == by_argmax
        likelier += true[1] > true[0]
    assert evaluated.score("choice", "acc,none") == pytest.approx(likelier / len(PUZZLES))
    assert likelier


def likelihood(problem: str, continuation: str) -> tuple[float, bool]:
    """By transformers: the log-probability of a solution, and whether greedy decoding writes it."""
    model = AutoModelForCausalLM.from_pretrained(NANO)
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    before = tokenizer(f"<bos><user>{problem}<assistant>", add_special_tokens=False).input_ids
    after = tokenizer(continuation, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0]
    scores = torch.log_softmax(logits[len(before) - 1 : -1].float(), dim=-1)
    chosen = scores[range(len(after)), after]
    return float(chosen.sum()), bool((scores.argmax(-1) == torch.tensor(after)).all())


def test_a_refinement_of_texts(
    run_tool: Run, tasks: Path, server: str, tmp_path: Path, engine: Engine
) -> None:
    evaluated = evaluate(run_tool, REFINED_TEXT, tasks, server, tmp_path, "chat")
    assert evaluated.texts("chat") == refined(engine, [one.problem for one in PUZZLES], 4, 1.0)
    assert Scraped(server).total("gsr_requests_total", method="selfref") == len(PUZZLES)
