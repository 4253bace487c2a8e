"""Names of voices and their mixtures."""

import pytest

from miaobi.core.errors import BadInput
from miaobi.engines.voices.mixture import mixture

NAMES = [
    "af_heart",
    "af_sky",
    "am_puck",
    "bf_lily",
    "hf_alpha",
    "jf_alpha",
    "zf_xiaoxiao",
]


@pytest.mark.parametrize(
    ("voice", "shares"),
    [
        ("af_heart", {"af_heart": 1}),
        ("heart", {"af_heart": 1}),
        ("af_heart+zf_xiaoxiao", {"af_heart": 0.5, "zf_xiaoxiao": 0.5}),
        ("af_heart:0.7+zf_xiaoxiao:0.3", {"af_heart": 0.7, "zf_xiaoxiao": 0.3}),
        ("af_heart(3)+af_sky(1)", {"af_heart": 0.75, "af_sky": 0.25}),
        (" af_heart : 2 + af_sky ", {"af_heart": 2 / 3, "af_sky": 1 / 3}),
        ("af_sky:1+af_sky:1", {"af_sky": 1}),
    ],
)
def test_mixtures(voice: str, shares: dict[str, float]) -> None:
    assert mixture(voice, NAMES) == pytest.approx(shares)


@pytest.mark.parametrize(
    ("voice", "problem", "remedy"),
    [
        ("af_hart", "no voice 'af_hart'", "af_heart"),
        ("alpha", "no voice 'alpha'", "hf_alpha"),
        ("af_heart:much", "weight 'much'", "af_heart:0.7"),
        ("af_heart:0", "weight '0'", "af_heart:0.7"),
        ("af_heart:-1", "weight '-1'", "af_heart:0.7"),
        ("af_heart:inf", "weight 'inf'", "af_heart:0.7"),
        ("af_heart+", "no voice", "af_heart"),
        ("", "no voice", "af_heart"),
    ],
)
def test_what_is_no_voice_is_refused(voice: str, problem: str, remedy: str) -> None:
    with pytest.raises(BadInput, match=problem) as caught:
        mixture(voice, NAMES)
    assert remedy in str(caught.value)
    assert caught.value.field == "voice"
