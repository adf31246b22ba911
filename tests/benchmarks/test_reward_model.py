"""Rewards of candidates, and a refiner that is another model than the writer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from benchmarks.accuracy.__main__ import AccuracyCommand
from benchmarks.accuracy.journal import Journal
from benchmarks.accuracy.models import opened
from benchmarks.accuracy.refined_by import RefinedBy
from benchmarks.accuracy.reward_model import RewardModel
from benchmarks.accuracy.run import measure
from benchmarks.samples.folder import Run
from benchmarks.samples.method import Method
from gsr_engine.errors import CheckpointError
from gsr_engine.evaluation.grader import ExactGrader
from tests.helpers.accuracy_runs import unmeasured, write_sums
from tests.helpers.runs import solution

pytestmark = pytest.mark.slow


def make_reward_model(folder: Path, like: Path, labels: int = 1, chat: bool = True) -> Path:
    """A tiny classifier with the tokenizer of a checkpoint."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(like)
    config.num_labels = labels
    config.pad_token_id = 0
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (like / name).exists() and (chat or "chat" not in name):
            shutil.copy(like / name, folder / name)
    if not chat:
        stated = json.loads((folder / "tokenizer_config.json").read_text())
        stated.pop("chat_template", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return folder


@pytest.fixture(scope="module")
def judge(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reward_model(tmp_path_factory.mktemp("judge"), qwen2)


@pytest.mark.parametrize(("labels", "chat"), [(1, True), (3, True), (1, False)])
def test_the_reward_is_the_last_label_of_the_whole_conversation(
    labels: int, chat: bool, qwen2: Path, tmp_path: Path
) -> None:
    folder = make_reward_model(tmp_path / "judge", qwen2, labels, chat)
    rewards = RewardModel(folder).rewards("1+1", ["2", "it is 3"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).float().eval()
    for answer, reward in zip(["2", "it is 3"], rewards, strict=True):
        if chat:
            turns = [("user", "1+1"), ("assistant", answer)]
            messages = [{"role": role, "content": text} for role, text in turns]
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        else:
            inputs = tokenizer("1+1", answer, return_tensors="pt")
        with torch.inference_mode():
            logits = model(input_ids=inputs["input_ids"]).logits
        assert logits.shape == (1, labels)
        assert reward == pytest.approx(float(logits[0, -1]), abs=1e-5)
    assert rewards[0] != rewards[1]


def test_of_a_solution_that_is_too_long_the_end_is_judged(
    judge: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = RewardModel(judge)
    longest = transformers.AutoConfig.from_pretrained(judge).max_position_embeddings
    with caplog.at_level("INFO"):
        one, other = model.rewards("1+1", [f"{start}{' 2' * longest}" for start in ("a", "b")])
    assert one == other
    assert "is judged by its end" in caplog.text


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_a_classifier_reads_pairs_as_it_was_trained_to(kind: str, tmp_path: Path) -> None:
    """BERT is told which of the texts a token is of; RoBERTa has fewer places than positions."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "1", "2", "is"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        model_max_length=30,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=7,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        type_vocab_size=2,
        num_labels=1,
        pad_token_id=1,
        initializer_range=1.0,
    )
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    model.save_pretrained(tmp_path)
    (reward,) = RewardModel(tmp_path).rewards("1 is", "2")
    inputs = tokenizer("1 is", "2", return_tensors="pt")
    assert inputs["token_type_ids"].any()
    with torch.inference_mode():
        assert reward == pytest.approx(float(model(**inputs).logits[0, 0]), abs=1e-5)
    one, other = RewardModel(tmp_path).rewards("1", [f"{start} {'is ' * 30}" for start in "12"])
    assert one == other


def test_what_is_no_reward_model_is_named(qwen2: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no reward model: it lacks score"):
        RewardModel(qwen2).rewards("1+1", ["2"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is no reward model"):
        RewardModel(tmp_path).rewards("1+1", ["2"])


def run(model: Path, data: Path, out: Path, **changed: Any) -> Run:
    options = {"k": "2", "max_tokens": 12, "seed": 3, "dtype": "float32", **changed}
    command = AccuracyCommand(model=str(model), data=str(data), out=out, **options)
    problems = command.load_problems(command.find_task())
    with opened(command, problems) as models:
        about = {"task": "file", **models.about}
        judge = models.reward_model
        return measure(
            models.generator, problems, ExactGrader(), command, out, about, reward_model=judge
        )


def test_rewards_of_all_candidates_survive_an_interruption(
    qwen2: Path, judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_sums(tmp_path / "data.jsonl")
    whole = run(qwen2, data, tmp_path / "whole", reward_model=str(judge))
    for sample in whole.samples:
        texts = [one.text for one in sample.candidates]
        rewards = RewardModel(judge).rewards(sample.problem, texts)
        assert [one.reward for one in sample.candidates] == rewards
        assert all(answer.reward is None for answer in sample.answers)
    add, judged = Journal.add, list[str]()

    def interrupted(journal: Journal, repeat: int, name: str, index: int, value: Any) -> None:
        if name == "rewards" and index == 2:
            raise KeyboardInterrupt
        add(journal, repeat, name, index, value)

    def recorded(model: RewardModel, problem: str, solutions: Sequence[str]) -> list[float]:
        judged.append(problem)
        return rewards_of(model, problem, solutions)

    rewards_of, out = RewardModel.rewards, tmp_path / "run"
    monkeypatch.setattr(Journal, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(qwen2, data, out, reward_model=str(judge))
    monkeypatch.undo()
    monkeypatch.setattr(RewardModel, "rewards", recorded)
    resumed = run(qwen2, data, out, reward_model=str(judge))
    assert judged == ["2+2"]
    assert unmeasured(resumed) == unmeasured(whole)


def test_a_refiner_reads_the_candidates_of_another_model(
    qwen2: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Its tokenizer is the same, so it reads tokens; what either would write alone differs."""
    data, refiner = write_sums(tmp_path / "data.jsonl"), checkpoints["qwen3"]
    options: dict[str, Any] = {"methods": "greedy,selfref", "layouts": "linear"}
    own = run(qwen2, data, tmp_path / "own", **options)
    other = run(refiner, data, tmp_path / "other", **options)
    both = run(qwen2, data, tmp_path / "both", refiner=str(refiner), **options)
    for mixed, alone, theirs in zip(both.samples, own.samples, other.samples, strict=True):
        assert mixed.candidates == alone.candidates
        assert mixed.answer_of("greedy").text == alone.answer_of("greedy").text
        refined = mixed.answer_of("selfref linear@2")
        assert refined.error is None
        assert sorted(refined.used) == [0, 1]
        assert refined.text != alone.answer_of("selfref linear@2").text
        assert refined.text != theirs.answer_of("selfref linear@2").text
    settings = both.settings
    assert settings["refiner"] == str(refiner)
    assert settings["refiner_weights"] == other.settings["weights"]
    assert settings["weights"] == own.settings["weights"]
    assert both.facts["measured"]["cost"] == {}  # no engine has both phases


class Recorded:
    """A refiner that says what it was given."""

    layouts = ("linear",)

    def answer_each(self, method: Method, seed: int, indices: Any, given: Any) -> Any:
        yield from given.items()


@pytest.mark.parametrize(
    ("same", "view", "expected"),
    [
        (True, "summary", [("<t>a</t>b", [1, 2]), ("<t>a", [3])]),
        (False, "summary", [("b", []), ("", [])]),
        (False, "full", [("<t>a</t>b", []), ("<t>a", [])]),
    ],
)
def test_a_refiner_with_another_tokenizer_reads_texts_without_a_strangers_thinking(
    same: bool, view: Any, expected: list[tuple[str, list[int]]]
) -> None:
    refiner: Any = Recorded()
    both = RefinedBy(refiner, refiner, same_tokens=same, thinking=("<t>", "</t>"))
    method = Method(name="selfref linear@2", kind="selfref", layout="linear", k=2, view=view)
    candidates = [
        solution("b", text="<t>a</t>b", token_ids=[1, 2]),
        solution(None, text="<t>a", token_ids=[3]),
    ]
    ((index, read),) = list(both.answer_each(method, 0, [5], {5: candidates}))
    assert index == 5
    assert [(one.text, one.token_ids) for one in read] == expected
    assert candidates[0].token_ids == [1, 2]
