"""Every control equals Transformers' processor of that name; the rest is checked
against its definition.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as reference

from miaobi.core.requests import TextRequest
from miaobi.nn import sampling

V = 23
CASES = {
    "repetition_penalty": (
        sampling.repetition_penalty(1.7),
        reference.RepetitionPenaltyLogitsProcessor(1.7),
    ),
    "no_repeat_1": (
        sampling.no_repeat_ngram(1),
        reference.NoRepeatNGramLogitsProcessor(1),
    ),
    "no_repeat_2": (
        sampling.no_repeat_ngram(2),
        reference.NoRepeatNGramLogitsProcessor(2),
    ),
    "no_repeat_3": (
        sampling.no_repeat_ngram(3),
        reference.NoRepeatNGramLogitsProcessor(3),
    ),
    "min_new_tokens": (
        sampling.min_new_tokens(9, 4, {3, 5}),
        reference.MinNewTokensLengthLogitsProcessor(4, 9, [3, 5]),
    ),
    "temperature": (sampling.temperature(0.6), reference.TemperatureLogitsWarper(0.6)),
    "top_k": (sampling.top_k(4), reference.TopKLogitsWarper(4)),
    "top_k beyond the vocabulary": (sampling.top_k(99), reference.TopKLogitsWarper(99)),
    "top_p": (sampling.top_p(0.7), reference.TopPLogitsWarper(0.7)),
    "min_p": (sampling.min_p(0.3), reference.MinPLogitsWarper(0.3)),
    "typical_p": (sampling.typical_p(0.6), reference.TypicalLogitsWarper(0.6)),
    "logit_bias": (
        sampling.logit_bias({2: 3.5, 7: -1.5}),
        reference.SequenceBiasLogitsProcessor([[[2], 3.5], [[7], -1.5]]),
    ),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), length=st.integers(5, 20))
def test_equals_transformers(name: str, seed: int, length: int) -> None:
    ours, theirs = CASES[name]
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 8, (3, length), generator=draw)
    logits = torch.randn(3, V, generator=draw) * 3
    assert torch.equal(ours(ids, logits.clone()), theirs(ids, logits.clone()))


def test_count_penalty_by_its_definition() -> None:
    ids = torch.tensor([[1, 1, 2, 5, 5, 5, 6]])
    logits = torch.zeros(1, V)
    changed = sampling.count_penalty(0.5, 0.25, prompt_length=3)(ids, logits)
    assert changed[0, 5].item() == pytest.approx(-0.5 - 3 * 0.25)
    assert changed[0, 6].item() == pytest.approx(-0.5 - 0.25)
    assert changed[0, [1, 2, 0]].tolist() == [0, 0, 0], (
        "the prompt's tokens are not counted"
    )


def test_bias_of_minus_100_bans() -> None:
    assert sampling.logit_bias({4: -100})(torch.zeros(1, 1), torch.full((1, V), 50.0))[
        0, 4
    ] == float("-inf")


def test_controls_follow_the_request() -> None:
    assert sampling.controls_of(TextRequest(prompt=""), 0, {1}) == []
    everything = TextRequest(
        prompt="",
        repetition_penalty=1.1,
        presence_penalty=0.1,
        no_repeat_ngram_size=2,
        min_new_tokens=1,
        logit_bias={1: 1.0},
        temperature=0.5,
        top_k=3,
        typical_p=0.9,
        top_p=0.9,
        min_p=0.1,
    )
    assert len(sampling.controls_of(everything, 0, {1})) == 10
    greedy = TextRequest(prompt="", temperature=0, top_p=0.5, min_p=0.2)
    assert sampling.controls_of(greedy, 0, {1}) == [], "greedy needs no cuts"


def test_draw_follows_the_distribution_and_its_seed() -> None:
    logits = torch.tensor([[0.1, 0.6, 0.3]]).log().expand(4000, -1)
    tokens = sampling.draw(logits, sampling.generators_of(7, 4000))
    shares = torch.bincount(tokens, minlength=3) / 4000
    # Three standard errors of a share are at most 3 * sqrt(0.25 / 4000) = 0.024.
    assert (shares - torch.tensor([0.1, 0.6, 0.3])).abs().max() < 0.024
    alone = sampling.draw(logits[:1], sampling.generators_of(7 + 5, 1))
    assert alone[0] == tokens[5], "answer i of seed s is answer 0 of seed s + i"
