"""Word problems in plain English, cut to a number of tokens."""

from __future__ import annotations

import random

from gsr_engine.checkpoint.tokenizer import Tokenizer

_NAMES = ("Anna", "Ben", "Clara", "David", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas")
_THINGS = ("apples", "books", "bricks", "candles", "lemons", "pencils", "stamps", "tickets")
_EVENTS = (
    "{name} buys {a} boxes with {b} {things} each",
    "{name} gives {a} of the {things} to {other}",
    "{name} sells {a} {things} for {b} cents each",
    "{name} shares {a} {things} equally among {b} friends and keeps what is left",
    "{name} finds {a} more {things} and loses {b} of them on the way home",
    "{name} packs {a} {things} into bags of {b}",
)


def word_problems(count: int, tokens: int, tokenizer: Tokenizer, seed: int = 0) -> list[str]:
    """Different texts of about `tokens` tokens, each of a question and of what happens.

    The text is cut behind its last token, so the problem may end inside a sentence. Encoding the
    cut text again may give a token more or less.
    """
    rng = random.Random(seed)
    return [_cut(_story(rng, tokens), tokens, tokenizer) for _ in range(count)]


def _story(rng: random.Random, sentences: int) -> str:
    people, things = rng.sample(_NAMES, 4), rng.choice(_THINGS)
    story = [f"How many {things} does {people[0]} have in the end?"]
    for _ in range(sentences):  # a sentence has more than one token
        name, other = rng.sample(people, 2)
        a, b = rng.randint(12, 99), rng.randint(2, 11)
        event = rng.choice(_EVENTS).format(name=name, other=other, things=things, a=a, b=b)
        story.append(f"{rng.choice(('Then', 'Later', 'Next day'))} {event}.")
    return " ".join(story)


def _cut(text: str, tokens: int, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(tokenizer.encode_text(text)[:tokens])
