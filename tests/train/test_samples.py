"""A sample is read back as it was written, and older lines are read, too."""

from __future__ import annotations

import json

import pytest

from gsr_engine.errors import InvalidRequest
from train.samples import Sample

SAMPLE = Sample(
    id="p",
    index=2,
    key="0123456789abcdef",
    text="so 4",
    token_ids=[5, 6],
    tokenizer="abc",
    finish_reason="length",
    num_tokens=3,
    logprob=-0.5,
    answer="4",
    correct=True,
    source="model",
)


def test_the_line_of_a_sample() -> None:
    assert SAMPLE.as_line() == (
        b'{"id":"p","sample":2,"key":"0123456789abcdef","text":"so 4","token_ids":[5,6],'
        b'"tokenizer":"abc",'
        b'"finish_reason":"length","num_tokens":3,"logprob":-0.5,"answer":"4","correct":true,'
        b'"source":"model","error":""}\n'
    )


def test_a_sample_is_read_back_as_it_was_written() -> None:
    assert Sample.from_record(json.loads(SAMPLE.as_line())) == SAMPLE


def test_id_and_number_are_all_that_a_record_needs() -> None:
    assert Sample.from_record({"id": 7, "sample": "1"}) == Sample(id="7", index=1)
    for record in ({"id": "p"}, {"sample": 0}, {"id": "p", "sample": "first"}):
        with pytest.raises(InvalidRequest, match="samples"):
            Sample.from_record(record)


def test_what_cannot_be_written_down_is_no_text() -> None:
    sample = Sample.from_record({"id": "p", "sample": 0, "text": "\ud800", "answer": 4})
    assert (sample.text, sample.answer) == ("", "")
