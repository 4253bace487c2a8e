"""What a quantised file says does not depend on the engine that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

import miaobi

QUESTION = "Name the capital of France and one river that flows through it."


def test_q4_1_says_the_same_in_openvino_as_in_llamacpp(smollm2: Path) -> None:
    """OpenVINO's own reader rounds Q4_1's block minima, which costs 0.4 nats a token;
    ours rewrites the weights first.
    """
    answers = {}
    for engine in ("llamacpp", "openvino"):
        with miaobi.load(smollm2, engine=engine) as model:
            answers[engine] = model.generate(
                QUESTION, temperature=0, max_new_tokens=12, logprobs=0
            )[0]
    first, other = answers.values()
    same = next(
        (
            place
            for place, (one, two) in enumerate(
                zip(first.logprobs, other.logprobs, strict=False)
            )
            if one.token != two.token
        ),
        12,
    )
    assert same >= 4, answers
    assert [item.logprob for item in first.logprobs[:same]] == pytest.approx(
        [item.logprob for item in other.logprobs[:same]], abs=0.25
    )
