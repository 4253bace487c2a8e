"""Which encoding a text without a mark is in, judged by how plausible each reading is.

The models of letters and languages are chardet's. Of 6,069 samples in 31 languages and
41 encodings, of 1 to 40 short sentences, its first choice was right in 97.0 %; the wrong
ones are nearly all shorter than a line, and there the second choice is close behind. So
a choice counts when it is far enough ahead of the next different reading: by MARGINS,
4,091 counted and 7 of them were wrong, none from 10 sentences on. Of the others, 99 %
have the right reading among the first five, which are shown to be chosen from.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from unicodedata import category

SAMPLE = 1 << 16
"""Bytes that are judged at most."""
WORDS = 10
"""Words of the text that are shown."""
CHARACTERS = 60
"""Characters that are shown at most: not every script has spaces."""
WIDE = ("utf-16-le", "utf-16-be")
CANDIDATES = (
    *WIDE,
    *("gb18030", "big5hkscs", "cp932", "euc_jis_2004", "cp949"),
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256"),
    *("cp1257", "cp1258", "cp874", "koi8-r", "koi8-u"),
    *("iso8859-15", "iso8859-2", "iso8859-5", "iso8859-7"),
    *("cp866", "cp850", "cp852", "cp437", "mac-roman"),
)
"""Python's names, the more usual first: of two that read the same text, it decides."""
NAMES = {
    "utf-16-le": "UTF-16-LE",
    "utf-16-be": "UTF-16-BE",
    "big5hkscs": "Big5",
    "cp932": "Shift-JIS",
    "euc_jis_2004": "EUC-JP",
    "cp949": "EUC-KR",
}
"""What people call them, where Python's name is a variant's."""
NO_TEXT = ("Cc", "Co", "Cn")
"""Unicode's categories of characters that no text has outside ASCII."""
MARGINS = ((16, 0.002, 0.999), (8, 0.02, 0.99), (0, 0.1, 0.99))
"""(bytes outside ASCII from which it holds, lead over the next different reading that is
needed, share of such choices that were right).
"""


@dataclass(frozen=True)
class Reading:
    """An encoding in which a text can be read."""

    encoding: str
    """Python's name."""
    confidence: float
    """The share of such choices that are right; 1 where a mark or a person says it, 0
    where several readings are as plausible.
    """
    excerpt: str = ""
    """The beginning of the text so read."""

    @property
    def name(self) -> str:
        """What people call the encoding."""
        return NAMES.get(self.encoding, self.encoding.upper())


def readings(sample: bytes) -> list[Reading]:
    """Return the plausible readings of a text, the best first.

    Only the first has a confidence above 0, and only where it is far enough ahead of
    every other text that the bytes could be.
    """
    scored = _scored(sample[:SAMPLE])
    if not scored:
        return []
    _, first_score, first_text = scored[0]
    same = [name for name, _, text in scored if text == first_text]
    usual = min(same, key=CANDIDATES.index)
    others = [item for item in scored if item[2] != first_text]
    lead = first_score - (others[0][1] if others else 0.0)
    confidence = _confidence(sample, lead)
    first = Reading(usual, confidence, excerpt(first_text))
    return [first, *(Reading(name, 0.0, excerpt(text)) for name, _, text in others)]


def _scored(sample: bytes) -> list[tuple[str, float, str]]:
    """(encoding, score, text) of those in which the sample is text, the best first."""
    if not sample:
        return []
    import chardet

    results = chardet.detect_all(
        sample,
        include_encodings=CANDIDATES,
        ignore_threshold=True,
        compat_names=False,
    )
    rows = list[tuple[str, float, str]]()
    for item in results:
        name = item["encoding"]
        text = None if name is None else _text(sample, name)
        if name is not None and text is not None:
            rows.append((name, item["confidence"], text))
    return rows


def _text(sample: bytes, encoding: str) -> str | None:
    """The sample in an encoding, or None where it holds what is no text: bytes that it
    lacks, control characters outside ASCII, characters that Unicode leaves to others or
    to the future.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        text = decoder.decode(sample)  # a character cut at the end is left out
    except UnicodeDecodeError:
        return None
    wide = {char for char in text if not char.isascii()}
    return None if any(category(char) in NO_TEXT for char in wide) else text


def _confidence(sample: bytes, lead: float) -> float:
    wide = sum(byte > 127 or byte == 0 for byte in sample)
    for least, margin, share in MARGINS:
        if wide >= least:
            return share if lead >= margin else 0.0
    return 0.0


def excerpt(text: str) -> str:
    """Return the first ten words of a text that have something beyond ASCII near."""
    begin = next((at for at, char in enumerate(text) if not char.isascii()), 0)
    begin = text.rfind("\n", 0, begin) + 1
    words = text[begin : begin + 4 * CHARACTERS].split()[:WORDS]
    return " ".join(words)[:CHARACTERS]
