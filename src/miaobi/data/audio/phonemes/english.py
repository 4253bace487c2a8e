"""English text as phonemes in the symbols of misaki, with its dictionaries.

The dictionaries (us_gold and us_silver, or gb_) are misaki 0.9.4's, Apache-2.0, and so
are the rules for endings, stress and small words, which are written here anew. Where it
asks a tagger for the part of speech, the words before decide here: "to record" and "the
record". Words in no dictionary go to the network of `unknown.py`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from miaobi.data.audio.phonemes.unknown import UnknownWords


def _split(words: str) -> list[str]:
    return words.split()


PRIMARY, SECONDARY = "ˈ", "ˌ"
VOWELS = frozenset("AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻ")
TAPPED = frozenset("AIOWYiuæɑəɛɪɹʊʌ")
"""After these, an American t before an ending is a tap."""
TOKEN = re.compile(r"[A-Za-zÀ-ɏ]+(?:['’][A-Za-z]+)*['’]?|[^A-Za-zÀ-ɏ]")
HUMPS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
SENTENCE_MARKS = ".,!?;:—…"
SPELLED = frozenset({"US", "IT", "ID", "UN", "OS", "IP", "PC", "TV", "UK", "AI"})
"""Capitals that are spelled although they are words in small letters."""
BEFORE_VERB = frozenset(
    _split(
        "to will would can could shall should must may might do does did don't "
        "doesn't didn't won't can't i we you they please let's not who i'll "
        "we'll you'll they'll i'd we'd never always"
    )
)
BEFORE_NOUN = frozenset(
    _split(
        "the a an my your his her its our their this that these those of in on "
        "with for no some any each every new old first last from by at"
    )
)
BEFORE_PARTICIPLE = frozenset(
    _split(
        "have has had was were been is are be i've we've you've they've being get got"
    )
)


Ending = tuple[str, list[str], Callable[[str], str]]
"""An ending, the stems it may have been put to, and what it makes of their sounds."""


@dataclass(frozen=True)
class Context:
    """What stands around a word."""

    previous: str = ""
    """The word before, in small letters."""
    next: str = ""
    vowel_follows: bool | None = None
    """Whether the next sound is a vowel; None where nothing follows."""


class English:
    """Phonemes of English text.

    Args:
        dictionaries: The folder of misaki's dictionaries.
        network: The file of g2p_en's network.
        british: Whether to speak as in Britain.
    """

    def __init__(self, dictionaries: Path, network: Path, british: bool) -> None:
        self.british = british
        region = "gb" if british else "us"
        self._gold = _read(dictionaries / f"{region}_gold.json")
        self._silver = _read(dictionaries / f"{region}_silver.json")
        self._unknown = UnknownWords(network)

    def phonemes(self, text: str) -> str:
        """Return the phonemes of a text; its marks and spaces stay."""
        tokens = TOKEN.findall(text)
        spoken = list[str]()
        vowel_follows: bool | None = None
        next_word = ""
        for index in range(len(tokens) - 1, -1, -1):
            token = tokens[index]
            if not token[0].isalpha():
                spoken.append(token)
                if token in SENTENCE_MARKS:
                    vowel_follows, next_word = None, ""
                continue
            previous = _previous_word(tokens, index)
            context = Context(previous, next_word, vowel_follows)
            sounds = self.word(token, context)
            spoken.append(sounds)
            vowel_follows = _begins_with_vowel(sounds, vowel_follows)
            next_word = token.lower()
        joined = "".join(reversed(spoken))
        # Kokoro was trained with these.
        return joined.replace("ɾ", "T").replace("ʔ", "t")

    def word(self, word: str, context: Context | None = None) -> str:
        """Return the phonemes of one word; `context` where it stands in a sentence."""
        context = context or Context()
        word = _plain(word)
        sounds = self._small_word(word, context) or self._known(word, context)
        if sounds:
            return sounds
        parts = HUMPS.findall(word)
        if len(parts) > 1 and "'" not in word:
            return "".join(self.word(part) for part in parts)
        return self._adapted(self._unknown(word.lower().replace("'", "")))

    def _adapted(self, sounds: str) -> str:
        return sounds.replace("O", "Q") if self.british else sounds

    def _small_word(self, word: str, context: Context) -> str:
        """What the sounds around change in a small word."""
        match word:
            case "a" | "A":
                return "ɐ" if context.next else "ˈA"
            case "an" | "An":
                return "ɐn"
            case "I":
                return "ˌI"
            case "the" | "The":
                return "ði" if context.vowel_follows else "ðə"
            case "to" | "To":
                if context.vowel_follows is None:
                    return str(self._gold["to"])
                return "tʊ" if context.vowel_follows else "tə"
            case "in" | "In":
                return "ˈɪn" if context.vowel_follows is None else "ɪn"
            case "am" if context.vowel_follows is not None:
                return "ɐm"
            case "used" if context.next == "to" and context.previous not in (
                "is",
                "are",
            ):
                return self._entry("used", "VBD")
        return ""

    def _known(self, word: str, context: Context) -> str:
        """A word of the dictionaries, with or without an ending; "" for any other."""
        if len(word) == 1:
            return self._spelled(word)
        if word in SPELLED:
            return self._spelled(word)
        if re.fullmatch(r"[A-Z]{2,}'?s", word):
            return self._s(self._known(word.rstrip("s").rstrip("'"), context))
        capitals = word.isupper()
        if capitals and word.isalpha() and not self._has(word.lower()):
            return self._looked_up(word, context) or self._spelled(word)
        stress = None if word.islower() else (2 if capitals else 0.5)
        for form in dict.fromkeys((word, word.lower())):
            sounds = self._looked_up(form, context) or self._with_ending(form, context)
            if sounds:
                return stressed(sounds, stress)
        return ""

    def _has(self, word: str) -> bool:
        return word in self._gold or word in self._silver

    def _looked_up(self, word: str, context: Context) -> str:
        """A word's entry; where it has several, the one that fits the words around."""
        if not self._has(word):
            return ""
        return self._entry(word, _part_of_speech(context))

    def _entry(self, word: str, part: str) -> str:
        entry = self._gold.get(word, self._silver.get(word))
        if isinstance(entry, str):
            return entry
        assert entry is not None
        if part == "VBN" and part not in entry:
            part = "VBD" if "VBD" in entry else "DEFAULT"
        return entry.get(part) or entry["DEFAULT"] or ""

    def _spelled(self, letters: str) -> str:
        """Letters by their names, the last one stressed."""
        names = [str(self._gold.get(letter.upper(), "")) for letter in letters]
        joined = stressed("".join(names), 0)
        head, found, last = joined.rpartition(SECONDARY)
        return f"{head}{PRIMARY}{last}" if found else joined

    def _with_ending(self, word: str, context: Context) -> str:
        """A word of the dictionaries with 's, -s, -ed or -ing."""
        for suffix, stems, ended in self._endings(word):
            if not word.endswith(suffix):
                continue
            for stem in stems:
                if len(stem) > 1 and self._has(stem):
                    return ended(self._looked_up(stem, context))
        return ""

    def _endings(self, word: str) -> Iterator[Ending]:
        yield "'s", [word[:-2]], self._s
        yield "s'", [word[:-1], word[:-2]], lambda sounds: sounds
        yield "'", [word[:-1]], lambda sounds: sounds
        if not word.endswith("ss"):
            stems = [word[:-1]]
            if word.endswith("ies"):
                stems.append(word[:-3] + "y")
            elif word.endswith("es"):
                stems.append(word[:-2])
            yield "s", stems, self._s
        doubled = re.search(r"([bdgklmnprtvz])\1(?:ed|ing)$", word)
        stems = [word[:-1], word[:-2]] + ([word[:-3]] if doubled else [])
        yield "ed", stems, self._ed
        stems = [word[:-3], word[:-3] + "e"] + ([word[:-4]] if doubled else [])
        yield "ing", stems, self._ing

    def _weak(self) -> str:
        return "ɪ" if self.british else "ᵻ"

    def _s(self, sounds: str) -> str:
        if sounds[-1] in "ptkfθ":
            return sounds + "s"
        if sounds[-1] in "szʃʒʧʤ":
            return f"{sounds}{self._weak()}z"
        return sounds + "z"

    def _ed(self, sounds: str) -> str:
        if sounds[-1] in "pkfθʃsʧ":
            return sounds + "t"
        if sounds[-1] == "d":
            return f"{sounds}{self._weak()}d"
        if sounds[-1] != "t":
            return sounds + "d"
        if self._taps(sounds):
            return sounds[:-1] + "ɾᵻd"
        return f"{sounds}{self._weak()}d"

    def _ing(self, sounds: str) -> str:
        if self._taps(sounds):
            return sounds[:-1] + "ɾɪŋ"
        return sounds + "ɪŋ"

    def _taps(self, sounds: str) -> bool:
        ends_in_t = len(sounds) > 1 and sounds[-1] == "t"
        return not self.british and ends_in_t and sounds[-2] in TAPPED


def stressed(sounds: str, stress: float | None) -> str:
    """Return the sounds with more stress: 0 and 0.5 at least a secondary one, 2 a
    primary one. None leaves them as they are.
    """
    has_primary, has_secondary = PRIMARY in sounds, SECONDARY in sounds
    if stress is None or not VOWELS & set(sounds):
        return sounds
    if stress == 0 and has_primary:
        return sounds.replace(SECONDARY, "").replace(PRIMARY, SECONDARY)
    if not has_primary and not has_secondary:
        mark = PRIMARY if stress > 1 else SECONDARY
        first = next(index for index, it in enumerate(sounds) if it in VOWELS)
        return sounds[:first] + mark + sounds[first:]
    if stress > 1 and not has_primary:
        return sounds.replace(SECONDARY, PRIMARY)
    return sounds


def _read(file: Path) -> dict[str, str | dict[str, str | None]]:
    """A dictionary, in which a word may begin with a capital or not."""
    entries = json.loads(file.read_text(encoding="utf-8"))
    further = dict[str, str | dict[str, str | None]]()
    for word, entry in entries.items():
        if len(word) > 1 and word.islower():
            further[word.capitalize()] = entry
        elif len(word) > 1 and word == word.capitalize():
            further[word.lower()] = entry
    return {**further, **entries}


def _plain(word: str) -> str:
    """A word in the letters of the dictionaries: café is cafe."""
    word = unicodedata.normalize("NFKD", word.replace("’", "'"))
    return "".join(it for it in word if not unicodedata.combining(it))


def _previous_word(tokens: list[str], index: int) -> str:
    for token in reversed(tokens[:index]):
        if token[0].isalpha():
            return token.lower().replace("’", "'")
        if token in SENTENCE_MARKS:
            return ""
    return ""


def _part_of_speech(context: Context) -> str:
    if context.previous in BEFORE_VERB:
        return "VERB"
    if context.previous in BEFORE_PARTICIPLE:
        return "VBN"
    if context.previous in BEFORE_NOUN:
        return "NOUN"
    return "None" if context.vowel_follows is None else "DEFAULT"


def _begins_with_vowel(sounds: str, otherwise: bool | None) -> bool | None:
    for it in sounds:
        if it.isalpha() and it not in PRIMARY + SECONDARY:
            return it in VOWELS
    return otherwise
