"""What a user's program does with OpenAI's client; run by any version of it, in any environment.

    python openai_client.py URL MODEL PROBLEM

prints the version of the client. It fails where the client does not get what it expects.
"""

from __future__ import annotations

import sys

import openai


def main(url: str, model: str, problem: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=120)
    messages = [{"role": "user", "content": problem}]
    assert model in [one.id for one in client.models.list()]
    plain(client, model, messages)
    refined(client, model, messages)
    streams(client, model, messages)
    text(client, model, problem)
    errors(client, model, messages)
    print(openai.__version__)


def plain(client, model, messages):
    made = client.chat.completions.create(
        model=model, messages=messages, max_tokens=30, n=2, logprobs=True, top_logprobs=2, seed=1
    )
    assert [choice.index for choice in made.choices] == [0, 1]
    assert all(choice.finish_reason in ("stop", "length") for choice in made.choices)
    assert len(made.choices[0].logprobs.content[0].top_logprobs) == 2
    usage = made.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0
    assert usage.completion_tokens_details.reasoning_tokens >= 0


def refined(client, model, messages):
    gsr = {"gsr": {"k": 2, "view": "full", "stream": "phases"}}
    made = client.chat.completions.create(
        model=model, messages=messages, max_completion_tokens=120, seed=1, extra_body=gsr
    )
    assert made.usage.completion_tokens <= 120
    assert made.usage.model_extra["gsr"]["k"] == 2
    assert len(made.model_extra["gsr"]["candidates"]) == 2
    assert made.choices[0].message.model_extra["reasoning_content"]
    by_id = client.chat.completions.create(
        model=f"{model}:selfref@2",
        messages=messages,
        max_completion_tokens=120,
        seed=1,
        extra_body={"gsr": {"view": "full"}},
    )
    assert by_id.choices[0].message.content == made.choices[0].message.content


def streams(client, model, messages):
    for mode in (None, "final", "phases", "all"):
        gsr = {"gsr": {"k": 2, "view": "full", "stream": mode}} if mode else {}
        asked = {
            "model": model,
            "messages": messages,
            "max_tokens": 1000,  # the wrapper below takes an answer that was cut for an error
            "seed": 1,
            "extra_body": gsr,
        }
        content, usage = "", None
        for chunk in client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        ):
            assert usage is None  # the chunk without choices is the last
            if chunk.usage is not None:
                usage = chunk.usage
                continue
            content += chunk.choices[0].delta.content or ""
        whole = client.chat.completions.create(**asked)
        assert content == (whole.choices[0].message.content or "")
        assert usage.completion_tokens == whole.usage.completion_tokens
        # The wrapper fails on a chunk that is no chunk, and on an index without a role before it.
        with client.chat.completions.stream(**{**asked, "n": 2, "temperature": 0.5}) as stream:
            final = stream.get_final_completion()
        assert [choice.index for choice in final.choices] == [0, 1]


def text(client, model, problem):
    made = client.completions.create(
        model=model, prompt=[problem, problem], max_tokens=8, temperature=0, logprobs=1
    )
    assert made.choices[0].text == made.choices[1].text
    assert len(made.choices[0].logprobs.tokens) == 8
    parts = client.completions.create(
        model=model, prompt=problem, max_tokens=8, temperature=0, stream=True
    )
    assert "".join(part.choices[0].text for part in parts) == made.choices[0].text


def errors(client, model, messages):
    for kind, param, asked in (
        (openai.BadRequestError, "tools", {"tools": [{"type": "function", "function": {}}]}),
        (openai.BadRequestError, "gsr.k", {"extra_body": {"gsr": {"k": 10**6}}}),
        (openai.NotFoundError, "model", {"model": "another"}),
    ):
        try:
            client.chat.completions.create(**{"model": model, "messages": messages, **asked})
        except kind as refused:
            found = refused.param
        else:
            found = "nothing"
        assert found == param


if __name__ == "__main__":
    main(*sys.argv[1:])
