"""The results of a run in lm-eval's key names, for tools that read its `results_*.json`.

A method is a filter of the metric `exact_match`, as in lm-eval's `metric,filter`:
`exact_match,maj@4` and `exact_match_stderr,maj@4`. Costs are metrics beside it: `total_tokens`,
`sequential_tokens`, `cut`, `unanswered`. A comma in the name of a method becomes a semicolon.

- A standard error is the width of the 95 % bootstrap interval, clustered by problem, over twice
  `normal_end`: 2 · 1.96 where problems are many.
- `lm_eval_version` is the version of lm-eval whose keys these are; lm-eval itself took no part.
- `config.model_sha` is the digest of the weights; `task_hashes` has that of the problems.
- Seeds are the run's own seed. There are no few-shot examples.
- `gsr` has the facts of run.json and the whole summary; lm-eval's tools do not look there.

Keys after lm-eval 0.4.13 (lm_eval/result_schema.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.analysis.intervals import normal_end
from benchmarks.analysis.rows import MethodRow
from benchmarks.analysis.summary import Summary
from benchmarks.samples.folder import Run
from train.files import whole_file

LM_EVAL = "0.4.13"
_METRICS = {
    "exact_match": True,
    "total_tokens": False,
    "sequential_tokens": False,
    "cut": False,
    "unanswered": False,
}
"""Of each metric whether higher is better."""


def write_results_json(folder: Path, run: Run, summary: Summary) -> Path:
    """Write `results_DATE.json` beside a run's files, with the date of the run; gives its path."""
    path = folder / f"results_{run.facts['measured']['date']}.json"
    results = results_of(run, summary)
    with whole_file(path) as file:
        file.write(json.dumps(results, ensure_ascii=False, indent=2) + "\n")
    return path


def results_of(run: Run, summary: Summary) -> dict[str, Any]:
    """The results of a run by lm-eval's keys."""
    settings, machine, measured = (run.facts[name] for name in ("settings", "machine", "measured"))
    task, model = summary.task, summary.model
    begun = datetime.fromisoformat(str(measured["date"])).replace(tzinfo=UTC).timestamp()
    answered = {"original": summary.problems + len(summary.left_out), "effective": summary.problems}
    return {
        "results": {task: _metrics(summary)},
        "group_subtasks": {task: []},
        "configs": {task: _task_config(run)},
        "versions": {task: settings.get("task_version", 1)},
        "n-shot": {task: 0},
        "higher_is_better": {task: _METRICS},
        "n-samples": {task: answered},
        "config": _model_config(run),
        "git_hash": machine.get("commit"),
        "date": begun,
        "pretty_env_info": "\n".join(f"{name}: {value}" for name, value in machine.items()),
        "transformers_version": machine.get("transformers"),
        "lm_eval_version": LM_EVAL,
        "upper_git_hash": None,
        "max_length": settings.get("max_model_len"),
        "task_hashes": {task: settings.get("problems") or _digest(run)},
        "model_source": "openai" if settings.get("endpoint") else "gsr-engine",
        "model_name": model,
        "model_name_sanitized": re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": settings.get("chat_template"),
        "start_time": begun,
        "end_time": begun + measured["seconds"],
        "total_evaluation_time_seconds": str(measured["seconds"]),
        "gsr": {"run": run.facts, "summary": asdict(summary)},
    }


def _metrics(summary: Summary) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "name": summary.task,
        "alias": summary.task,
        "sample_len": summary.problems,
    }
    for row in summary.methods:
        name = row.name.replace(",", ";")
        values = zip(_METRICS, _values(row), strict=True)
        metrics |= {f"{metric},{name}": value for metric, value in values}
        width = row.accuracy.high - row.accuracy.low
        metrics[f"exact_match_stderr,{name}"] = width / (2 * normal_end(summary.problems))
    return metrics


def _values(row: MethodRow) -> Iterable[float]:
    return (row.accuracy.mean, row.total, row.sequential, row.cut, row.unanswered)


def _task_config(run: Run) -> dict[str, Any]:
    settings = run.settings
    return {
        "task": settings["task"],
        "output_type": "generate_until",
        "num_fewshot": 0,
        "repeats": settings["repeats"],
        "should_decontaminate": False,
        "generation_kwargs": _generation(run),
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": higher}
            for name, higher in _METRICS.items()
        ],
        "metadata": {
            name: settings[name] for name in ("data", "grader", "template") if name in settings
        },
    }


def _generation(run: Run) -> dict[str, Any]:
    settings = run.settings
    named = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_gen_toks"}
    found = {to: settings[name] for name, to in named.items() if name in settings}
    return found | {"do_sample": settings.get("temperature", 0) > 0}


def _model_config(run: Run) -> dict[str, Any]:
    settings = run.settings
    seed = settings.get("seed")
    told = ("quantization", "endpoint", "refiner", "reward_model", "tokenizer")
    return {
        "model": "openai" if settings.get("endpoint") else "gsr-engine",
        "model_args": {"pretrained": settings["model"]}
        | {name: settings[name] for name in told if settings.get(name) is not None},
        "model_dtype": settings.get("dtype"),
        "model_sha": settings.get("weights"),
        "batch_size": None,
        "batch_sizes": [],
        "device": run.facts["machine"].get("gpu"),
        "use_cache": None,
        "limit": settings.get("limit"),
        "bootstrap_iters": 10_000,
        "gen_kwargs": _generation(run),
        "random_seed": seed,
        "numpy_seed": seed,
        "torch_seed": seed,
        "fewshot_seed": seed,
    }


def _digest(run: Run) -> str:
    """Of the problems, where the run does not state one."""
    rows = [[one.id, one.problem, one.gold] for one in run.samples if one.repeat == 0]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
