"""Phonemes of English, Chinese and mixed text, in misaki's symbols."""

from collections.abc import Callable
from pathlib import Path

import pytest

from miaobi.core.errors import BadInput
from miaobi.data.audio.phonemes import Phonemizer
from miaobi.data.audio.phonemes.chinese import phonemes, syllable_phonemes
from miaobi.data.audio.phonemes.unknown import SYMBOLS, symbol


@pytest.fixture(scope="module")
def phonemizer(pack: Callable[[str], Path]) -> Phonemizer:
    folder = pack("kokoro")
    return Phonemizer(
        folder / "misaki/misaki/data", folder / "g2p-en/g2p_en/checkpoint20.npz"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("银行行长", "i↗nxa↗ŋ xa↗ŋꭧa↓ŋ"),
        ("行走", "ɕi↗ŋʦou↓"),
        ("重要", "ꭧʊ↘ŋjau↘"),
        ("重复", "ꭧʰʊ↗ŋfu↘"),
        ("长大", "ꭧa↓ŋta↘"),
        ("长度", "ꭧʰa↗ŋtu↘"),
        ("音乐", "i→nɥe↘"),
        ("快乐", "kʰwai↘lɤ↘"),
        ("还钱", "xwa↗n ʨʰjɛ↗n"),
        ("还有", "xai↗jou↓"),
        ("了解", "ljau↓ʨje↓"),
    ],
)
def test_characters_of_several_readings(text: str, expected: str) -> None:
    assert phonemes(text).replace(" ", "") == expected.replace(" ", "")


@pytest.mark.parametrize(
    ("syllable", "expected"),
    [
        ("hao3", "xau↓"),
        ("shi4", "ʂɨ↘"),
        ("lüe4", "lɥe↘"),
        ("jun1", "ʨy→n"),
        ("er2", "ɚ↗"),
        ("ng2", "ŋ↗"),
        ("de5", "tɤ"),
        ("wo3", "wo↓"),
    ],
)
def test_syllables(syllable: str, expected: str) -> None:
    assert syllable_phonemes(syllable) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello there.", "həlˈO ðˈɛɹ."),
        ("the apple, the car", "ði ˈæpᵊl, ðə kˈɑɹ"),
        ("to eat, to go", "tʊ ˈit, tə ɡˌO"),
        ("I want to record the record.", "ˌI wˈɑnt tə ɹəkˈɔɹd ðə ɹˈɛkəɹd."),
        ("I have read it.", "ˌI hæv ɹˈɛd ɪt."),
        ("It stopped, wanted and waited.", "ˌɪt stˈɑpt, wˈɑntᵻd ænd wˈATᵻd."),
        ("boxes of cherries", "bˈɑksᵻz ʌv ʧˈɛɹiz"),
        ("GPUs in the US", "ʤˌipˌijˈuz ɪn ðə jˌuˈɛs"),
        ("Zürich café", "zˈuɹɪk kæfˈA"),
        ("OpenAI", "ˈOpᵊnˌAˈI"),
    ],
)
def test_english(phonemizer: Phonemizer, text: str, expected: str) -> None:
    assert phonemizer.phonemes(text) == expected


def test_british(phonemizer: Phonemizer) -> None:
    assert phonemizer.phonemes("a bath of water", british=True) == "ɐ bˈɑːθ ɒv wˈɔːtə"


def test_a_word_in_no_dictionary_is_sounded_out(phonemizer: Phonemizer) -> None:
    assert phonemizer.phonemes("kubernetes") == "kəbˈɜɹnəts"


def test_mixed_text_keeps_its_order(phonemizer: Phonemizer) -> None:
    sounds = phonemizer.phonemes("今天天气很好。Hello there，我爱Python编程")
    assert "xau↓. həlˈO ðˈɛɹ, wo↓" in sounds
    assert "pˈIθˌɑn pjɛ→n" in sounds


def test_letters_of_other_scripts_are_refused(phonemizer: Phonemizer) -> None:
    with pytest.raises(BadInput, match="こ") as caught:
        phonemizer.phonemes("hello こんにちは")
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("name", SYMBOLS)
def test_every_phoneme_of_the_network_has_a_symbol(name: str) -> None:
    assert symbol(name)
