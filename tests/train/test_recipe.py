"""A recipe runs each stage once; commands take the options of the shipped recipes."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
import tyro
from transformers import AutoConfig, AutoModelForCausalLM

from gsr_engine import Engine, InvalidRequest, SamplingParams
from train.files import read_toml
from train.recipe import RECIPES, choose, find_recipe, main, read_recipe
from train.rehearsal import main as write_material
from train.sft import parse
from train.trainer.dry_run import model_shape

pytestmark = pytest.mark.slow

NAMES = sorted(file.stem for file in RECIPES.glob("*.toml"))
EXAMPLE = str(Path(__file__).parents[1] / "examples" / "custom_recipe.toml")
COMMAND = """
import signal, sys, time
from pathlib import Path
word, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
with Path("calls").open("a") as file:
    file.write(word + " ")
if options.get("--do") == "fail":
    sys.exit(3)
if options.get("--do") == "wait":
    signal.signal(signal.SIGTERM, lambda *_: (Path("saved").touch(), sys.exit(0)))
    Path("ready").touch()
    time.sleep(60)
Path(options["--out"]).write_text(options["--text"])
"""
RECIPE = """
[stages]
first = "command one"
second = "command two"
third = "command three"
[first]
text = "a"
out = "1"
[second]
text = "b"
out = "2"
[third]
text = "c"
out = "3"
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three stages that write down that they were called."""
    (tmp_path / "command.py").write_text(COMMAND)
    monkeypatch.chdir(tmp_path)
    here = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{here}")
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE)
    return file


def calls() -> list[str]:
    """What was called since it was last asked."""
    file = Path("calls")
    words = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return words


def change(recipe: Path, old: str, new: str) -> None:
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))


def test_stages_run_once_and_again_when_something_before_them_changed(recipe: Path) -> None:
    main(str(recipe), ranks=1)
    assert calls() == ["one", "two", "three"]
    main(str(recipe), ranks=1)
    assert calls() == []
    change(recipe, 'text = "b"', 'text = "other"')
    main(str(recipe), ranks=1)
    assert calls() == ["two", "three"]
    assert Path("2").read_text() == "other"
    Path("1").unlink()
    main(str(recipe), ranks=1)
    assert calls() == ["one"]


def test_a_failure_ends_it_and_the_next_run_goes_on(recipe: Path) -> None:
    change(recipe, 'text = "b"', 'text = "b"\ndo = "fail"')
    with pytest.raises(typer.Exit) as stopped:
        main(str(recipe), ranks=1)
    assert stopped.value.exit_code == 3
    assert calls() == ["one", "two"]
    change(recipe, '\ndo = "fail"', "")
    main(str(recipe), ranks=1)
    assert calls() == ["two", "three"]


def test_sigterm_reaches_the_stage_which_is_not_finished_then(recipe: Path) -> None:
    """It may save what it has and leave with status 0: that is no reason to go on."""
    change(recipe, 'text = "b"', 'text = "b"\ndo = "wait"')
    run = subprocess.Popen([sys.executable, "-m", "train.recipe", str(recipe), "--ranks=1"])
    while run.poll() is None and not Path("ready").exists():
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 1
    assert Path("saved").exists()
    assert calls() == ["one", "two"]
    assert [stage.is_done for stage in read_recipe(recipe)] == [True, False, False]


def test_some_stages_or_only_their_commands(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(str(recipe), stage=["third", "first"], ranks=1)
    assert calls() == ["one", "three"]
    main(str(recipe), ranks=1, show=True)
    assert calls() == []
    printed = capsys.readouterr().out
    assert "# first: done" in printed
    assert "# second\n" in printed
    assert "-m command two --text b --out 2" in printed


def test_a_recipe_shares_the_stages_of_its_base(recipe: Path) -> None:
    main(str(recipe), ranks=1)
    calls()
    other = recipe.with_name("other.toml")
    other.write_text('base = "recipe.toml"\n[third]\nout = "4"\n')
    main(str(other), ranks=1)
    assert calls() == ["three"]
    assert Path("4").read_text() == "c"


def test_the_trainer_runs_on_every_rank_and_is_done_with_its_model(recipe: Path) -> None:
    change(recipe, '"command two"', '"train.sft"')
    change(recipe, 'text = "b"', 'compile = true\nshard = 2\ntrackers = ["wandb", "tensorboard"]')
    trainer = read_recipe(recipe)[1]
    one, two = trainer.command(1), trainer.command(2)
    assert one[1:3] == ["-m", "train.sft"]
    assert one[3:] == two[-len(one[3:]) :]
    flags = "--compile --shard 2 --trackers wandb tensorboard --out 2"
    assert " ".join(one[3:]) == flags
    assert {"torch.distributed.run", "--nproc-per-node=2"} < set(two)
    assert trainer.result == Path("2/model")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[stages]", "[steps]", "^stages: .* says nothing"),
        ("[third]", "[fourth]", "^stages: .* table for fourth"),
        ('out = "3"', "", "^third: must have an `out`"),
        ("[stages]", "text = 1\n[stages]", "^text: must be a table"),
        ("[stages]", "[stages", "^config: "),
    ],
)
def test_what_is_no_recipe_is_named(recipe: Path, old: str, new: str, message: str) -> None:
    change(recipe, old, new)
    with pytest.raises(InvalidRequest, match=message):
        read_recipe(recipe)


def test_unknown_names_are_told_of(recipe: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"none of .*gsr-7b.*rehearsal"):
        find_recipe("gsr-8b")
    with pytest.raises(InvalidRequest, match="one of first, second, third, got fifth"):
        choose(read_recipe(recipe), ["fifth"])


class Parsed(Exception):
    """The options of a command were read; its argument is their `out`."""


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end as soon as tyro or typer has read their options."""
    read = tyro.cli

    def by_tyro(*args: Any, **options: Any) -> None:
        raise Parsed(read(*args, **options).out)

    def by_typer(app: typer.Typer) -> None:
        command = typer.main.get_command(app)
        raise Parsed(command.make_context(sys.argv[0], sys.argv[1:]).params["out"])

    monkeypatch.setattr(tyro, "cli", by_tyro)
    monkeypatch.setattr(typer.Typer, "__call__", by_typer)
    monkeypatch.setattr("train.command.show_log", lambda: None)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.usefixtures("only_parse")
@pytest.mark.parametrize("name", [*NAMES, EXAMPLE])
def test_commands_take_the_options_of_the_shipped_recipes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in read_recipe(find_recipe(name)):
        monkeypatch.setattr(sys, "argv", stage.command(1)[2:])
        with pytest.raises(Parsed) as parsed:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        assert str(parsed.value.args[0]) == stage.options["out"]


@pytest.mark.parametrize("name", [*NAMES, EXAMPLE])
def test_what_a_stage_reads_another_wrote_before(name: str) -> None:
    written: set[str] = set()
    for stage in read_recipe(find_recipe(name)):
        for option, value in stage.options.items():
            for path in str(value).split(",") if option != "out" else ():
                made = path.startswith("runs/")
                assert not made or any(path == one or path.startswith(f"{one}/") for one in written)
        written.add(str(stage.options["out"]))


@pytest.mark.parametrize("name", ["gsr-7b", "gsr-14b", "gsr-32b"])
def test_the_papers_recipe_is_the_papers(name: str) -> None:
    """And a dry run reads the very file, whose table of the trainer is whole."""
    path = find_recipe(name)
    stages = {stage.name: stage.options for stage in read_recipe(path)}
    assert stages["problems"]["data"] == "nvidia/OpenMathReasoning"
    assert stages["candidates"]["model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert stages["candidates"]["temperature"] == 1
    assert {stages[kind]["model"] for kind in ("direct_targets", "refine_targets")} == {
        "Qwen/QwQ-32B"
    }
    assert (stages["sets"]["k"], stages["sets"]["summary_tokens"]) == ("4-6", 1000)
    assert (stages["hybrid"]["mix"], stages["sft"]["epochs"]) == (0.5, 3)
    config, dry = parse(["--config", str(path), "--dry-run"])
    assert dry is not None
    assert dry.expected == read_toml(find_recipe("gsr-7b"))["expected"]
    assert config == parse(read_recipe(path)[9].command(1)[3:])[0]
    assert model_shape(config.model).vocab_size == 152_064


def test_the_rehearsals_material(tmp_path: Path) -> None:
    """Puzzles that are not those of the evaluation, and a model that trains and runs."""
    write_material(tmp_path / "m", problems=5, evaluation=3)
    problems, evaluation = (
        (tmp_path / "m" / f"{name}.jsonl").read_text().splitlines()
        for name in ("problems", "evaluation")
    )
    assert (len(problems), len(evaluation)) == (5, 3)
    wide = tmp_path / "m" / "wide"
    assert AutoConfig.from_pretrained(wide).hidden_size == 256
    assert AutoModelForCausalLM.from_pretrained(wide).lm_head.weight.std() > 0
    with Engine.from_pretrained(wide, dtype="float32") as engine:
        assert "branched" in engine.gsr.layouts
        assert engine.generate(["d3c0"], SamplingParams(max_tokens=2))
