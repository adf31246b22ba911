"""How a client gets a refined answer: by one request, or by a loop of its own over two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serving.servers import NAME
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.params import Layout
from gsr_engine.programs.template import TEMPLATES, Template

_PATH = "/v1/chat/completions"


class NotAnswered(RuntimeError):
    """A server refused a request or failed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every answer costs; lengths are fixed, so that no draw decides.

    Attributes:
        k: candidates.
        candidate_tokens: tokens of each.
        refine_tokens: tokens of the refinement.
    """

    k: int = 4
    candidate_tokens: int = 128
    refine_tokens: int = 128


@dataclass(frozen=True, slots=True)
class OneRequest:
    """selfRef@k, which the server does."""

    name: str
    work: Work
    layout: Layout

    async def answer(self, client: httpx.AsyncClient, problem: str, seed: int) -> str:
        """The answer to a problem. Raises NotAnswered."""
        gsr = {
            "k": self.work.k,
            "layout": self.layout,
            "view": "full",
            "candidate": _length(self.work.candidate_tokens),
        }
        refine = _length(self.work.refine_tokens)
        (text,) = await _chat(client, problem, seed=seed, gsr=gsr, temperature=0.0, **refine)
        return text


@dataclass(frozen=True, slots=True)
class TwoRequests:
    """The same by a client: n candidates, then a prompt that holds them, in the same words."""

    name: str
    work: Work
    template: Template

    async def answer(self, client: httpx.AsyncClient, problem: str, seed: int) -> str:
        """The answer to a problem. Raises NotAnswered."""
        work, texts = self.work, self.template.shows(self.work.k)
        candidates = await _chat(
            client,
            problem + texts.direct,
            n=work.k,
            seed=seed,
            temperature=1.0,
            **_length(work.candidate_tokens),
        )
        shown = "".join(texts.before(i) + one for i, one in enumerate(candidates, start=1))
        again = "" if texts.restate is None else texts.restate + problem
        prompt = texts.opening + problem + texts.preamble + shown + texts.linear + again
        (text,) = await _chat(client, prompt, temperature=0.0, **_length(work.refine_tokens))
        return text


Method = OneRequest | TwoRequests


def _length(tokens: int) -> dict[str, int]:
    """No end token is drawn before the last one."""
    return {"min_tokens": tokens, "max_tokens": tokens}


async def _chat(client: httpx.AsyncClient, content: str, **fields: Any) -> list[str]:
    """The texts of all choices, their thinking included."""
    body = {"model": NAME, "messages": [{"role": "user", "content": content}], **fields}
    response = await client.post(_PATH, json=body)
    if response.status_code != 200:
        raise NotAnswered(f"status {response.status_code}: {response.text[:300]}")
    messages = [choice["message"] for choice in response.json()["choices"]]
    return [(one.get("reasoning_content") or "") + (one["content"] or "") for one in messages]


def methods_of(model: Path, work: Work) -> tuple[list[OneRequest], TwoRequests]:
    """Those of our server, in the layouts that a checkpoint was trained for; the client's loop.

    Both say the same: what the checkpoint's `gsr.json` names, or else the plain template, which
    the server takes for a chat then, too.
    """
    gsr = GsrConfig.from_folder(model)
    template = gsr.template if gsr.names_template else TEMPLATES["plain"]
    layouts: tuple[Layout, ...] = gsr.layouts if gsr.trained else ("linear",)
    own = [OneRequest(f"one request, {one}", work, one) for one in layouts]
    return own, TwoRequests("two requests", work, template)
