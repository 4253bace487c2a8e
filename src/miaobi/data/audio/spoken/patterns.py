"""What of a text is not read as it is written, and how it is read instead.

One rule for each kind: a pattern, and how a match is read in English and in Chinese.
They are tried in the order of RULES at each place of the text; the first that matches
is taken.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from miaobi.core.config import read_yaml
from miaobi.data.audio.spoken.numbers import (
    chinese,
    chinese_cardinal,
    chinese_digits,
    chinese_number,
    english,
    english_digits,
    english_number,
    english_ordinal,
    english_year,
)


def _split(words: str) -> list[str]:
    return words.split()


TABLES: dict[str, Any] = read_yaml(Path(__file__).with_name("tables.yaml"))
MONTHS = _split(
    "January February March April May June July August September October "
    "November December"
)
HAN = re.compile(r"[㐀-䶿一-鿿〇]")
LETTER = re.compile(r"[A-Za-zÀ-ɏ㐀-䶿一-鿿]")
WIDE = {ord("０") + digit: str(digit) for digit in range(10)} | {
    ord(wide): narrow
    for wide, narrow in zip("％＋－．：／＄＃＆＠＝～", "%+-.:/$#&@=~")
}
"""Wide signs of the same length as the narrow ones."""

Match = re.Match[str]
Read = Callable[[Match], str]

NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
NOT_IN_WORD = r"(?<![A-Za-z0-9_.,])"
NOT_IN_NUMBER = r"(?<![0-9.,])"


@dataclass(frozen=True)
class Rule:
    """A pattern and its readings. An empty reading is silence."""

    pattern: re.Pattern[str]
    english: Read
    chinese: Read


def matches(text: str, language: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, as it is read) of what is read in other words, in order."""
    narrow = text.translate(WIDE)
    position = 0
    while position < len(narrow):
        candidate = _first(narrow, position)
        if candidate is None:
            return
        rule, match = candidate
        start, end = match.span()
        in_chinese = _language(narrow, start, end, language) == "zh"
        words = rule.chinese(match) if in_chinese else rule.english(match)
        if not in_chinese:
            words = _apart(narrow, start, end, words)
        yield start, end, words
        position = end


def _first(text: str, position: int) -> tuple[Rule, Match] | None:
    """The match that begins first; of several that begin there, the first rule's."""
    best: tuple[Rule, Match] | None = None
    for rule in rules():
        match = rule.pattern.search(text, position)
        if match is None or match.end() == match.start():
            continue
        if best is None or match.start() < best[1].start():
            best = (rule, match)
    return best


def _language(text: str, start: int, end: int, default: str) -> str:
    """The language of the words around: those that touch, then the nearest."""
    if HAN.search(text[start:end]):
        return "zh"
    start, end = _beyond_letters(text, start, end)
    before = LETTER.search(text[start - 1 :: -1]) if start else None
    after = LETTER.search(text, end)
    near = [
        (before.start() if before else None, before),
        (after.start() - end if after else None, after),
    ]
    known = [(distance, it) for distance, it in near if distance is not None and it]
    if not known:
        return default
    _, nearest = min(known, key=lambda it: it[0])
    return "zh" if HAN.match(nearest.group()) else "en"


def _beyond_letters(text: str, start: int, end: int) -> tuple[int, int]:
    """The ends of a number with the one or two letters that belong to it: A4, 5G."""
    first, last = start, end
    while first and text[first - 1].isascii() and text[first - 1].isalpha():
        first -= 1
    while last < len(text) and text[last].isascii() and text[last].isalpha():
        last += 1
    if (start - first) + (last - end) > 2:
        return start, end
    return first, last


def _apart(text: str, start: int, end: int, words: str) -> str:
    """English words with spaces where they would touch a letter or digit."""
    if not words:
        return words
    if start and text[start - 1].isalnum():
        words = f" {words}"
    if end < len(text) and text[end].isalnum():
        words = f"{words} "
    return words


def _spelled(letters: str) -> str:
    return " ".join(letters.upper())


def _url_english(match: Match) -> str:
    text = re.sub(r"^https?://", "", match.group()).rstrip("/")
    signs = {".": "dot", "/": "slash", "@": "at", "-": "dash", "_": "underscore"}
    signs |= {
        "?": "question mark",
        "=": "equals",
        "&": "and",
        "#": "hash",
        ":": "colon",
    }
    return " ".join(_url_words(text, signs, english_digits))


def _url_chinese(match: Match) -> str:
    text = re.sub(r"^https?://", "", match.group()).rstrip("/")
    signs = {".": "点", "/": "斜杠", "@": "艾特", "-": "杠", "_": "下划线"}
    signs |= {"?": "问号", "=": "等于", "&": "和", "#": "井号", ":": "冒号"}
    return " ".join(_url_words(text, signs, chinese_digits))


def _url_words(
    text: str, signs: dict[str, str], digits: Callable[[str], str]
) -> Iterator[str]:
    for part in re.findall(r"[A-Za-z]+|\d+|.", text):
        if part.isdigit():
            yield digits(part)
        elif part.lower() == "www":
            yield "W W W"
        else:
            yield signs.get(part, part)


def _date_english(match: Match) -> str:
    month = MONTHS[int(match["month"]) - 1]
    day = english_ordinal(int(match["day"]))
    return f"{month} {day}, {english_year(int(match['year']))}"


def _date_chinese(match: Match) -> str:
    year = chinese_digits(match["year"])
    month = chinese_cardinal(int(match["month"]))
    return f"{year}年{month}月{chinese_cardinal(int(match['day']))}日"


def _chinese_date(match: Match) -> str:
    """2024年5月1日, and its parts."""
    words = ""
    if match["year"]:
        words += chinese_digits(match["year"]) + "年"
    if match["month"]:
        words += chinese_cardinal(int(match["month"])) + "月"
    if match["day"]:
        words += chinese_cardinal(int(match["day"])) + match["sign"]
    return words


def _month_name(name: str) -> str:
    return str(TABLES["months"].get(name.rstrip("."), name.rstrip(".")))


def _english_date(match: Match) -> str:
    """May 1, 2024; May 1st; 1 May 2024."""
    words = f"{_month_name(match['month'])} {english_ordinal(int(match['day']))}"
    if match["year"]:
        words += f", {english_year(int(match['year']))}"
    return words


def _time_english(match: Match) -> str:
    hour, minute = int(match["hour"]), int(match["minute"])
    half = match["half"]
    if half:
        half = " ".join(half.replace(".", "").upper())
    words = english(hour)
    if minute == 0:
        words += "" if half else (" o'clock" if 0 < hour <= 12 else " hundred")
    elif minute < 10:
        words += f" oh {english(minute)}"
    else:
        words += f" {english(minute)}"
    if match["second"]:
        words += f" and {_counted(match['second'], 'second', 'seconds')}"
    return f"{words} {half}" if half else words


def _time_chinese(match: Match) -> str:
    half = (match["half"] or "").replace(".", "").lower()
    words = {"am": "上午", "pm": "下午", "": ""}[half]
    words += chinese(int(match["hour"])) + "点"
    minute = int(match["minute"])
    if minute == 0 and not match["second"]:
        return words if half else words + "整"
    words += ("零" if minute < 10 else "") + chinese_cardinal(minute) + "分"
    if match["second"]:
        words += chinese_cardinal(int(match["second"])) + "秒"
    return words


def _counted(number: str, one: str, several: str) -> str:
    value = number.replace(",", "")
    return f"{english_number(number)} {one if value in ('1', '-1') else several}"


def _money_english(match: Match) -> str:
    one, several, cent, cents, _, _ = TABLES["currencies"][_currency(match)]
    amount, scale = _amount(match), _scale(match)
    sign = "minus " if match["sign"] else ""
    if scale:
        number = english_number(amount)
        return f"{sign}{number} {TABLES['scales'][scale][0]} {several}"
    whole, _, decimals = amount.replace(",", "").partition(".")
    if len(decimals) not in (0, 2):
        return f"{sign}{english_number(amount)} {several}"
    parts = list[str]()
    if int(whole) or not int(decimals or "0"):
        parts.append(_counted(whole, one, several))
    if int(decimals or "0"):
        hundredths = int(decimals)
        parts.append(_counted(str(hundredths), cent, cents))
    return sign + " and ".join(parts)


def _money_chinese(match: Match) -> str:
    name = TABLES["currencies"][_currency(match)][4]
    scale = _scale(match)
    number = chinese_number(_trimmed(_amount(match)))
    number = "两" if number == "二" else number
    unit = TABLES["scales"][scale][1] if scale else ""
    return f"{'负' if match['sign'] else ''}{number}{unit}{name}"


def _trimmed(amount: str) -> str:
    """An amount without the zeros of hundredths that are none."""
    return amount.removesuffix(".00")


def _currency(match: Match) -> str:
    return match["before"] or match["after"]


def _amount(match: Match) -> str:
    return match["amount"] or match["amount2"]


def _scale(match: Match) -> str:
    return match["scale"] or match["scale2"] or ""


def _phone_english(match: Match) -> str:
    groups = re.findall(r"\d+", match.group())
    words = ", ".join(english_digits(group) for group in groups)
    return f"plus {words}" if match.group().startswith("+") else words


def _phone_chinese(match: Match) -> str:
    groups = re.findall(r"\d+", match.group())
    if len(groups) == 1 and len(groups[0]) == 11:
        digits = groups[0]
        groups = [digits[:3], digits[3:7], digits[7:]]
    words = "，".join(chinese_digits(group, "幺") for group in groups)
    return f"加{words}" if match.group().startswith("+") else words


def _fraction_english(match: Match) -> str:
    top, bottom = int(match["top"]), int(match["bottom"])
    return f"{english(top)} {_share(top, bottom)}"


def _fraction_chinese(match: Match) -> str:
    bottom = chinese_cardinal(int(match["bottom"]))
    return f"{bottom}分之{chinese_cardinal(int(match['top']))}"


def _ratio(number: Callable[[str], str], word: str) -> Read:
    return lambda match: number(match["first"]) + word + number(match["last"])


def _character_english(match: Match) -> str:
    """½, ② and Ⅳ: characters that are numbers by themselves."""
    top, slash, bottom = unicodedata.normalize("NFKC", match.group()).partition("⁄")
    if slash:
        return f"{english(int(top))} {_share(int(top), int(bottom))}"
    return english(int(unicodedata.numeric(match.group())))


def _share(top: int, bottom: int) -> str:
    if bottom == 2:
        return "half" if top == 1 else "halves"
    name = "quarter" if bottom == 4 else english_ordinal(bottom)
    return name if top == 1 else f"{name}s"


def _character_chinese(match: Match) -> str:
    top, slash, bottom = unicodedata.normalize("NFKC", match.group()).partition("⁄")
    if slash:
        return f"{chinese_cardinal(int(bottom))}分之{chinese_cardinal(int(top))}"
    return chinese_cardinal(int(unicodedata.numeric(match.group())))


def _range_english(match: Match) -> str:
    first, last = english_number(match["first"]), english_number(match["last"])
    return f"{first} to {last}{_tail_english(match)}"


def _range_chinese(match: Match) -> str:
    first, last = chinese_number(match["first"]), chinese_number(match["last"])
    if match["tail"] == "%":
        return f"百分之{first}到百分之{last}"
    unit = TABLES["units"][match["tail"]][2] if match["tail"] else ""
    return f"{first}到{last}{unit}"


def _tail_english(match: Match) -> str:
    tail = match["tail"]
    if not tail:
        return ""
    return " percent" if tail == "%" else f" {TABLES['units'][tail][1]}"


def _unit_english(match: Match) -> str:
    one, several, _ = TABLES["units"][match["unit"]]
    return _counted(match["number"], one, several)


def _unit_chinese(match: Match) -> str:
    number = chinese_number(match["number"])
    number = "两" if number == "二" else number
    unit = match["unit"]
    if unit in ("°C", "℃", "°F", "℉") and number.startswith("负"):
        number = "零下" + number[1:]
    return number + str(TABLES["units"][unit][2])


def _percent_english(match: Match) -> str:
    sign = {"%": "percent", "‰": "per mille"}[match["sign"]]
    return f"{english_number(match['number'])} {sign}"


def _percent_chinese(match: Match) -> str:
    share = {"%": "百分之", "‰": "千分之"}[match["sign"]]
    number = chinese_number(match["number"])
    if number.startswith("负"):
        return f"负{share}{number[1:]}"
    return share + number


def _ordinal_english(match: Match) -> str:
    return english_ordinal(int(match["number"].replace(",", "")))


def _ordinal_chinese(match: Match) -> str:
    return "第" + chinese_cardinal(int(match["number"].replace(",", "")))


def _year_after_word(match: Match) -> str:
    word = re.sub(r"\d", lambda digit: f" {english(int(digit.group()))}", match["word"])
    return word + english_year(int(match["year"]))


def _decade(match: Match) -> str:
    """1990s: nineteen nineties."""
    words = english_year(int(match["year"]))
    return words[:-1] + "ies" if words.endswith("y") else words + "s"


def _version_english(match: Match) -> str:
    return " point ".join(map(english_number, match.group().split(".")))


def _version_chinese(match: Match) -> str:
    return "点".join(map(chinese_number, match.group().split(".")))


def _number_chinese(match: Match) -> str:
    number = match.group()
    follows = match.string[match.end() : match.end() + 1]
    if number == "2" and follows and follows in TABLES["counters"]:
        return "两"
    return chinese_number(number)


def _abbreviation(match: Match) -> str:
    return str(TABLES["abbreviations"][match.group()])


def _initials(match: Match) -> str:
    """U.S.A. is spelled; a sentence that ends with it keeps its full stop."""
    letters = _spelled(match.group().replace(".", ""))
    rest = match.string[match.end() :]
    ends = not rest.strip() or re.match(r"\s+[A-Z]", rest)
    return letters + ("." if ends else "")


def _symbol(language: int) -> Read:
    def read(match: Match) -> str:
        return str(TABLES["symbols"][match.group()][language])

    return read


def _silent(match: Match) -> str:
    return ""


def _space(match: Match) -> str:
    return " "


def _alternatives(names: Any) -> str:
    """The names as a pattern, the longest first."""
    ordered = sorted(map(str, names), key=len, reverse=True)
    return "|".join(map(re.escape, ordered))


def _both(pattern: str, read: Read) -> Rule:
    return Rule(re.compile(pattern, re.ASCII), read, read)


def _rule(pattern: str, in_english: Read, in_chinese: Read) -> Rule:
    return Rule(re.compile(pattern, re.ASCII), in_english, in_chinese)


@cache
def rules() -> tuple[Rule, ...]:
    """Return the rules, the most particular first."""
    signs = [name for name in TABLES["currencies"] if not name.isalpha()]
    codes = [name for name in TABLES["currencies"] if name.isalpha()]
    currency = _alternatives(TABLES["currencies"])
    scale = _alternatives(TABLES["scales"])
    units = _alternatives(TABLES["units"])
    end = r"(?![A-Za-z0-9])"
    months = _alternatives([*MONTHS, *TABLES["months"]])
    weekday = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
    year = r"(?P<year>1\d{3}|20\d{2})"
    domains = "com|org|net|io|cn|edu|gov|dev|ai|app|co|uk|de|jp|info"
    address = r"[A-Za-z0-9][\w.-]*@[\w-]+(?:\.[\w-]+)+"
    path = r"(?:/[\w./?=&#%:-]*[\w/])?"
    url = rf"https?://[\w.-]+(?::\d+)?{path}|(?:www\.)?(?:[\w-]+\.)+(?:{domains}){path}"
    half = r"(?:\s?(?P<half>[ap]\.?m\b\.?|[AP]\.?M\b\.?))?"
    emoji = (
        "[\U0001f000-\U0001faff\U00002600-\U000027bf\U00002b00-\U00002bff"
        "\U0001f1e6-\U0001f1ff\U0000fe00-\U0000fe0f\U0000200d\U000020e3]+"
    )
    return (
        _rule(
            rf"(?<![\w@])(?:{address}|{url})(?![A-Za-z0-9_])",
            _url_english,
            _url_chinese,
        ),
        _rule(
            rf"{NOT_IN_WORD}{year}(?P<s>[-/.])(?P<month>0?[1-9]|1[0-2])(?P=s)"
            r"(?P<day>0?[1-9]|[12]\d|3[01])(?![0-9-/])",
            _date_english,
            _date_chinese,
        ),
        _rule(
            rf"{NOT_IN_WORD}{year}-(?P<month>0[1-9]|1[0-2])(?![-\d])",
            lambda match: (
                f"{MONTHS[int(match['month']) - 1]} {english_year(int(match['year']))}"
            ),
            lambda match: (
                f"{chinese_digits(match['year'])}年{chinese_cardinal(int(match['month']))}月"
            ),
        ),
        _both(
            r"(?<!\d)(?:(?P<year>\d{2,4})年)?(?P<month>0?[1-9]|1[0-2])月"
            r"(?:(?P<day>0?[1-9]|[12]\d|3[01])(?P<sign>[日号]))?",
            _chinese_date,
        ),
        _both(
            r"(?<!\d)(?P<year>[12]\d{3}|\d{2})(?P<month>)(?P<day>)(?P<sign>)年(?!前|后|来|间|多|级)",
            _chinese_date,
        ),
        _both(
            rf"\b(?P<month>{months})\.? {weekday}(?:,? {year})?(?!\d|:)", _english_date
        ),
        _both(
            rf"\b{weekday} (?P<month>{months})\.?(?:,? {year})?(?!\d)", _english_date
        ),
        _rule(
            r"(?<![\d:.])(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)"
            rf"(?::(?P<second>[0-5]\d))?(?![\d:]){half}",
            _time_english,
            _time_chinese,
        ),
        _rule(
            r"\b(?P<hour>1[0-2]|[1-9])(?P<minute>)(?P<second>)\s?"
            r"(?P<half>[ap]\.?m\b\.?|[AP]\.?M\b\.?)",
            lambda match: (
                f"{english(int(match['hour']))} "
                + " ".join(match["half"].replace(".", "").upper())
            ),
            lambda match: (
                ("上午" if match["half"][0] in "aA" else "下午")
                + chinese(int(match["hour"]))
                + "点"
            ),
        ),
        _both(r"\b(?P<year>1\d{2}0|20\d0)'?s\b", _decade),
        _rule(
            rf"(?P<sign>-)?(?:(?<![A-Za-z])(?P<before>{currency}) ?(?P<amount>{NUMBER})"
            rf"(?: ?(?P<scale>{scale}){end})?"
            rf"|{NOT_IN_NUMBER}(?P<amount2>{NUMBER}) ?(?P<scale2>{scale})?"
            rf" ?(?P<after>{_alternatives(codes)}|{_alternatives(signs)}){end})",
            _money_english,
            _money_chinese,
        ),
        _rule(
            r"(?<![\w+-])(?:\+\d{1,3}[ -]?(?:\(?\d{2,4}\)?[ -]?)?\d{3,4}[ -]?\d{4}"
            r"|\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4}|0\d{2,3}-\d{7,8}"
            r"|1[3-9]\d{9}|400-\d{3}-\d{4}|[48]00-\d{4}-\d{3}|\d{3}-\d{4})(?![\d-])",
            _phone_english,
            _phone_chinese,
        ),
        _rule(
            rf"{NOT_IN_NUMBER}(?<![A-Za-z-])(?P<first>{NUMBER}) ?[-~–—～] ?"
            rf"(?P<last>{NUMBER}) ?(?P<tail>%|(?:{units}){end})?(?![-~\d])",
            _range_english,
            _range_chinese,
        ),
        _rule(
            rf"(?P<number>(?<![\w.)])[-+−]?{NUMBER}|{NUMBER}) ?(?P<sign>[%‰])",
            _percent_english,
            _percent_chinese,
        ),
        _rule(
            rf"(?:(?<![\w.)])(?P<minus>[-−]))?{NOT_IN_NUMBER}(?<![A-Za-z])(?P<number>{NUMBER})"
            rf" ?(?P<unit>{units})(?![A-Za-z0-9/²³])",
            _with_minus(_unit_english, "minus "),
            _with_minus(_unit_chinese, "负"),
        ),
        _rule(
            r"(?<![\w.:])(?P<first>\d+):(?P<last>\d+)(?![\d:])",
            _ratio(english_number, " to "),
            _ratio(chinese_number, "比"),
        ),
        _both(r"\b24/7\b", _abbreviation),
        _rule(
            r"(?<![\w./])(?P<top>\d{1,3})/(?P<bottom>[1-9]\d{0,2})(?![\d/]|\.\d)",
            _fraction_english,
            _fraction_chinese,
        ),
        _rule(
            r"第(?P<number>\d+)",
            _ordinal_chinese,
            _ordinal_chinese,
        ),
        _rule(
            r"\b(?P<number>\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th)\b",
            _ordinal_english,
            _ordinal_chinese,
        ),
        _both(
            r"\b(?P<word>(?:in|In|since|Since|by|By|until|Until|from|From|of|year|Year|to"
            rf"|during|During|Q[1-4]|before|Before|after|After|around|circa) ){year}\b(?![.,]?\d|%)",
            _year_after_word,
        ),
        _rule(
            r"(?<![0-9.])\d+(?:\.\d+){2,}(?![\w])",
            _version_english,
            _version_chinese,
        ),
        _rule(
            rf"(?<![\w.)])[-−+](?:{NUMBER})|{NUMBER}",
            lambda match: english_number(match.group()),
            _number_chinese,
        ),
        _both(
            r"(?<![A-Za-z])(?:[A-Za-z]\.){2,}(?![A-Za-z])", _initials_or_abbreviation
        ),
        _both(
            rf"(?<![A-Za-z])(?:{_alternatives(TABLES['abbreviations'])})(?![A-Za-z])",
            _abbreviation,
        ),
        _rule(
            r"[¼-¾⅐-⅞²³¹⁰⁴-⁹₀-₉①-⑳⑴-⒛Ⅰ-Ⅻⅰ-ⅻ]", _character_english, _character_chinese
        ),
        _both(emoji, _silent),
        _both(r"[‍​﻿­]+", _silent),
        _both(r"[_|`~^{}\[\]]+", _space),
        _rule(
            rf"(?<=\w)\s?(?P<plus>\+)\+(?!\w)|{_symbol_pattern()}",
            _symbol_or_plus(0),
            _symbol_or_plus(1),
        ),
    )


def _with_minus(read: Read, minus: str) -> Read:
    """A reading that says the sign before it."""

    def with_minus(match: Match) -> str:
        words = read(match)
        if not match["minus"]:
            return words
        if match["unit"] in ("°C", "℃", "°F", "℉") and minus == "负":
            return "零下" + words
        return minus + words

    return with_minus


def _initials_or_abbreviation(match: Match) -> str:
    if match.group() in TABLES["abbreviations"]:
        return _abbreviation(match)
    return _initials(match)


def _symbol_pattern() -> str:
    """Signs that stand for a word; a hyphen or slash inside of words is none."""
    others = _alternatives(name for name in TABLES["symbols"] if name not in "/*")
    return rf"{others}|(?<=\s)[/*](?=\s)"


def _symbol_or_plus(language: int) -> Read:
    """C++ is C plus plus."""
    read = _symbol(language)

    def read_sign(match: Match) -> str:
        if match["plus"] is not None:
            return ("plus plus", "加加")[language]
        return read(match)

    return read_sign
