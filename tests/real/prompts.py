"""What the real model is asked: varied texts, and one of eight thousand tokens."""

from __future__ import annotations

from typing import Any

TEXTS = (
    "a",
    "\n",
    "The capital of France is",
    "  12 +  345 =",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "SELECT name, count(*) FROM users WHERE age > 30 GROUP BY",
    '{"name": "Ada", "born": 1815, "fields": ["mathematics",',
    "\\begin{equation}\n  \\int_0^\\infty e^{-x^2} dx =",
    "東京は日本の首都です。",
    "Привет! Как дела? ",
    "مرحبا بالعالم",
    "Emoji: 🙂🙃🙂🙃👩‍👩‍👧",
    "Ünïcödé\u0301 ﬁ ½ Ⅷ\u00a0\u200b|",
    "<div class='a'>\n\t<p>Hello</p>\r\n",
    "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n",
)
"""Raw prompts, one of them of a single token; special tokens in them count."""

CONVERSATIONS: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": "What is 2+2? Answer with a number only."}],
    [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "Which animal barks?"},
    ],
    [
        {"role": "user", "content": "Say hello in French."},
        {"role": "assistant", "content": "Bonjour!"},
        {"role": "user", "content": "And in Spanish? 🙂"},
    ],
    [{"role": "user", "content": "Summarise: " + "The cat sat on the mat. It slept. " * 45}],
    [{"role": "user", "content": ""}],
)
"""With and without a system turn, with earlier turns, long, empty."""


def long_text() -> str:
    """Some 8,000 tokens: a list of numbers, and a question about one of them."""
    lines = "\n".join(f"Room {i}: code {i * 7919 % 1000:03}." for i in range(620))
    return f"{lines}\n\nThe code of room 371 is"
