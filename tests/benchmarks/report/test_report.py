"""Markdown, picture, texts and results in lm-eval's keys, without a browser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from benchmarks.analysis.results_json import results_of, write_results_json
from benchmarks.analysis.summary import summarize
from benchmarks.report.__main__ import MARKDOWN, PAGE, PICTURE, ReportCommand, main
from benchmarks.report.blocks import Plot, Report, Table
from benchmarks.report.document import write_document
from benchmarks.report.facts import facts, lead, run_names
from benchmarks.report.figures import figures
from benchmarks.report.rows import MOST_TEXT, Texts, texts_of
from benchmarks.samples.sample import Solution
from gsr_engine.errors import InvalidRequest
from tests.benchmarks.report.made import METHODS, random_run, write_report
from tests.helpers.runs import LINEAR, run_of, sample

LM_EVAL_KEYS = {
    "results",
    "group_subtasks",
    "configs",
    "versions",
    "n-shot",
    "higher_is_better",
    "n-samples",
    "config",
    "git_hash",
    "date",
    "pretty_env_info",
    "transformers_version",
    "lm_eval_version",
    "upper_git_hash",
    "max_length",
    "task_hashes",
    "model_source",
    "model_name",
    "model_name_sanitized",
    "system_instruction",
    "system_instruction_sha",
    "fewshot_as_multiturn",
    "chat_template",
    "chat_template_sha",
    "start_time",
    "end_time",
    "total_evaluation_time_seconds",
}


def test_markdown_is_tables_whatever_the_names_are(tmp_path: Path) -> None:
    run = random_run()
    name = "a|b `c` <d> *e* [f](g) \\"
    run.settings["task"] = run.settings["model"] = name
    text = (write_report(tmp_path, run) / MARKDOWN).read_text()
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert sum(one.type == "table_open" for one in tokens) == text.count("\n| ---")
    (first, *_) = [one.children for one in tokens if one.type == "inline"]
    assert first is not None
    assert "".join(one.content for one in first if one.type == "text").startswith(name[:9])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > 30
    every = MarkdownIt("commonmark").enable("table").render(text)
    assert "<em>" not in every
    assert "<d>" not in every


def test_every_figure_of_a_method_is_in_markdown(tmp_path: Path) -> None:
    run = random_run(repeats=2)
    text = (write_report(tmp_path, run) / MARKDOWN).read_text().replace("\\", "")
    for row in summarize(run).methods:
        assert f"| {row.name} | {row.accuracy} |" in text


def test_strata_by_size_are_not_called_right_candidates() -> None:
    run = random_run()
    blocks = figures(run, summarize(run, resamples=50))
    (plot,) = (one for one in blocks if isinstance(one, Plot) and "size" in one.title)
    assert (plot.title, plot.axes[0].label) == ("By size", "size")
    labels = [point.label for point in plot.series[0].points]
    assert labels == [f"pass@1, size {size}, 10 samples" for size in range(3)]


def test_what_is_copied_of_a_mixed_pool_is_shown() -> None:
    mixed = replace(LINEAR, name="mixed", kind="mixed", pool="foreign", share=0.5)
    samples = [sample(f"p{i}", ["7"] * 4, {LINEAR.name: "7", "mixed": "9"}) for i in range(2)]
    told = samples[0].answers[1]
    told.pools, told.stated = ["own", "own", "foreign", "foreign"], ["7", "7", "9", "9"]
    run = run_of(samples, (LINEAR, mixed))
    summary = summarize(run, resamples=50)
    assert summary.mixtures[1].copied is not None
    blocks = [one for one in figures(run, summary) if isinstance(one, Table)]
    (table,) = (one for one in blocks if one.title == "What it reads")
    assert [row[-1].text for row in table.rows] == ["", str(summary.mixtures[1].copied)]
    assert table.rows[1][-1].text.startswith("0.500")


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    one, other = (write_report(tmp_path / name, random_run()) for name in ("a", "b"))
    for name in (MARKDOWN, PICTURE, PAGE):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_one_run_without_methods_or_votes_has_a_report(tmp_path: Path) -> None:
    run = run_of([sample("only", ["7"], {})], [])
    run.settings["k"], run.settings["headline"] = [1], 1
    folder = write_report(tmp_path, run)
    assert (folder / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert "pass@1" in (folder / MARKDOWN).read_text()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is not a finished run"):
        main(ReportCommand(runs=(tmp_path,)))


def test_half_a_pair_is_kept_as_an_escape(tmp_path: Path) -> None:
    run = run_of([sample("only", ["7"] * 4, {"greedy": "7"}, problem="half \ud83e")], METHODS[:1])
    report = Report(name="r", lead=lead(run), facts=facts(run))
    write_document(tmp_path / PAGE, [report], [run])
    assert "half \\ud83e" in (tmp_path / PAGE).read_text(encoding="utf-8")


def test_a_run_that_states_no_temperature_has_a_head() -> None:
    run = random_run(2)
    del run.settings["temperature"]
    assert "6 candidates of each; k = 1, 4" in lead(run)


def test_names_tell_runs_apart() -> None:
    runs = [random_run(2), random_run(2, seed=1)]
    assert run_names(runs, ["a", "b"]) == ["made by hand · made · a", "made by hand · made · b"]
    runs[1].settings["task"] = "other"
    assert run_names(runs, ["a", "b"]) == ["made by hand · made", "made by hand · other"]


@given(st.text(max_size=60), st.integers(6, 40))
def test_a_shortened_text_keeps_its_ends(text: str, limit: int) -> None:
    shortened = Texts(limit).shortened(text)
    if len(text) <= limit:
        assert shortened == text
    else:
        assert text.startswith(shortened[: limit // 3])
        assert text.endswith(shortened[-(limit - limit // 3) :])
        assert f"{len(text) - limit:,} characters" in shortened


@given(st.lists(st.integers(0, 10_000_000), min_size=5, max_size=20))
def test_texts_are_shortened_to_what_a_page_holds_and_no_more(lengths: list[int]) -> None:
    run = random_run(1)
    run.samples[0].answers, run.samples[0].candidates = [], [_long(one) for one in lengths]
    limit = Texts.of([run]).limit
    if sum(lengths) <= MOST_TEXT:
        assert limit is None
    else:
        assert limit is not None
        assert sum(min(one, limit) for one in lengths) <= MOST_TEXT
        assert sum(min(one, limit + 1) for one in lengths) > MOST_TEXT - len(lengths)


class _Long(str):
    """A text that is only counted."""

    length: int = 0

    def __len__(self) -> int:
        return self.length


def _long(length: int) -> Solution:
    text = _Long()
    text.length = length
    return Solution(text=text, answer=None, correct=False, tokens=1)


def test_a_drawing_of_log_probabilities_keeps_the_least() -> None:
    run = random_run(1)
    logprobs = [-0.1] * 1000
    logprobs[777], logprobs[3] = -7.5, -float("inf")
    run.samples[0].candidates[0].logprobs = logprobs
    shown = texts_of(run, run.samples[0], Texts(None))
    json.dumps(shown, allow_nan=False)
    bars = shown["candidates"][0]["bars"]
    assert len(bars) <= 160
    assert sorted(bars)[-2:] == [750, 9900]


def test_results_have_lm_evals_keys(tmp_path: Path) -> None:
    run = random_run(repeats=2)
    path = write_results_json(tmp_path, run, summarize(run))
    assert path.name == "results_2026-11-29.json"
    results = json.loads(path.read_text())
    assert results.keys() - {"gsr"} == LM_EVAL_KEYS
    task = results["results"]["made"]
    for row in summarize(run).methods:
        assert task[f"exact_match,{row.name}"] == row.accuracy.mean
        assert task[f"total_tokens,{row.name}"] == row.total
    assert task["sample_len"] == 30
    assert results["higher_is_better"]["made"]["exact_match"] is True


def test_a_standard_error_is_clustered_by_problem() -> None:
    once = random_run(200)
    twice = random_run(200)
    for one in random_run(200).samples:
        one.repeat = 1
        twice.samples.append(one)
    twice.settings["repeats"] = 2
    key = "exact_match_stderr,selfref linear@4"
    errors = [results_of(run, summarize(run))["results"]["made"][key] for run in (once, twice)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)
    right = np.array([one.answers[1].correct for one in once.samples], float)
    assert errors[0] == pytest.approx(right.std() / len(right) ** 0.5, rel=0.1)


def test_lm_evals_own_table_reads_them() -> None:
    utils = pytest.importorskip("lm_eval.utils")
    run = random_run()
    table = utils.make_table(results_of(run, summarize(run)))
    assert "exact_match" in table
    assert "selfref linear@4" in table
