"""chrF and BLEU against sacreBLEU 2.6.0, ROUGE-L against rouge_score 0.1.2: the numbers
here are what those packages gave.
"""

from __future__ import annotations

import numpy as np
import pytest

from miaobi.tune.text import overlap

ENGLISH = [
    ("The cat sat on the mat, didn't it?", "A cat is sitting on the mat, isn't it?"),
    ("Please enter a valid value.", "Please enter a valid URL."),
    ("no match here", "something else entirely"),
    (
        "A 3.5-fold rise in U.S. prices: $1,000.",
        "A 3.5-fold rise of US prices, $1,000!",
    ),
]
CHINESE = [
    ("请输入有效的网址。", "请输入一个有效的URL。"),
    ("你确定要删除该用户吗？", "确定要删除用户么？"),
    ("保存 3 个 items", "保存这 3 个 items"),
]


def figure(name: str, pairs: list[tuple[str, str]]) -> float:
    return float(
        overlap.METRICS[name].combine(
            np.sum([overlap.counts(*pair)[name] for pair in pairs], axis=0)
        )
    )


@pytest.mark.parametrize(
    ("name", "pairs", "expected"),
    [
        ("chrf", ENGLISH, 49.128566796657076),
        ("chrf", ENGLISH[:1], 41.69746094232038),
        ("chrf", ENGLISH[:3], 43.753195811991155),
        ("chrf", CHINESE, 39.861423237646825),
        ("chrf", CHINESE[:1], 20.192012937706416),
        ("bleu", ENGLISH, 32.759952857345375),
        ("bleu", ENGLISH[:1], 29.377167835760567),
        ("bleu", ENGLISH[:2], 37.354385553848004),
        ("bleu", ENGLISH[2:3], 0.0),
        ("bleu", CHINESE, 36.227557436010244),
        ("bleu", CHINESE[2:], 40.93653765389909),
    ],
)
def test_as_sacrebleu(name: str, pairs: list[tuple[str, str]], expected: float) -> None:
    assert figure(name, pairs) == pytest.approx(expected, abs=1e-9)


def test_rouge_l_as_rouge_score() -> None:
    pairs = [
        ("the cat sat on the mat", "a cat is on a mat"),
        (
            "returns the number of nodes in the graph",
            "return number of edges of the graph",
        ),
    ]
    assert [figure("rouge_l", [pair]) for pair in pairs] == pytest.approx(
        [50.0, 100 * 8 / 15]
    )
    assert figure("rouge_l", pairs) == pytest.approx((50 + 100 * 8 / 15) / 2)


@pytest.mark.parametrize("name", overlap.METRICS)
def test_the_same_text_is_all_of_it_and_nothing_is_nothing(name: str) -> None:
    same = [(pair[0], pair[0]) for pair in ENGLISH]
    assert figure(name, same) == pytest.approx(100)
    assert figure(name, [("", "some words to be written")]) == 0


@pytest.mark.parametrize("name", overlap.METRICS)
def test_many_resamplings_at_once_are_as_one_by_one(name: str) -> None:
    counts = np.stack([overlap.counts(*pair)[name] for pair in ENGLISH + CHINESE])
    weights = (
        np.random.default_rng(0)
        .multinomial(7, np.full(7, 1 / 7), size=20)
        .astype(float)
    )
    combine = overlap.METRICS[name].combine
    assert combine(weights @ counts) == pytest.approx(
        [float(combine(row @ counts)) for row in weights]
    )
