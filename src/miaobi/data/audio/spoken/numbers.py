"""Numbers in words: cardinals, ordinals, years, digits and decimals, in Chinese and in
English.
"""

from __future__ import annotations


def _split(words: str) -> list[str]:
    return words.split()


DIGITS_ZH = "零一二三四五六七八九"
POWERS_ZH = ("", "十", "百", "千")
GROUPS_ZH = ((10**8, "亿"), (10**4, "万"))
LARGEST = 10**16
"""Numbers from here on are read digit by digit."""

UNDER_TWENTY = _split(
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
TENS = _split("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
GROUPS_EN = ("", "thousand", "million", "billion", "trillion", "quadrillion")
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def chinese(value: int) -> str:
    """Return a cardinal in Chinese: 12 is 十二, 2000 两千, 10010 一万零一十."""
    if value < 0:
        return "负" + chinese(-value)
    if value == 0:
        return "零"
    if value >= LARGEST:
        return chinese_digits(str(value))
    return _chinese(value, leading=True)


def _chinese(value: int, leading: bool) -> str:
    """A number from 1 on; `leading` where nothing is said before it."""
    for size, unit in GROUPS_ZH:
        if value < size:
            continue
        head, rest = divmod(value, size)
        words = _chinese(head, leading) + unit
        if rest:
            gap = "零" if rest < size // 10 else ""
            words += gap + _chinese(rest, leading=False)
        return words
    return _chinese_group(value, leading)


def _chinese_group(value: int, leading: bool) -> str:
    """One to 9999. What leads is 两, not 二, and 十, not 一十."""
    if value == 2:
        return "两" if leading else "二"
    digits = [int(digit) for digit in str(value)]
    words = ""
    gap = False
    for power, digit in zip(range(len(digits) - 1, -1, -1), digits):
        if digit == 0:
            gap = True
            continue
        if gap:
            words += "零"
            gap = False
        word = "两" if digit == 2 and power == 3 else DIGITS_ZH[digit]
        words += word + POWERS_ZH[power]
    if leading and words.startswith("一十"):
        return words[1:]
    return words


def chinese_cardinal(value: int) -> str:
    """Return a cardinal that stands alone: 2 is 二, where 两 would count something."""
    return "二" if value == 2 else chinese(value)


def chinese_digits(digits: str, one: str = "一") -> str:
    """Return digits one by one; in telephone numbers 1 is 幺."""
    return "".join(one if it == "1" else DIGITS_ZH[int(it)] for it in digits)


def chinese_number(number: str) -> str:
    """Return a written number, with sign, commas and decimals as they may be."""
    sign, whole, decimals = _parts(number)
    long = len(whole) > 1 and whole.startswith("0")
    words = chinese_digits(whole) if long else chinese_cardinal(int(whole or "0"))
    if decimals:
        words += "点" + chinese_digits(decimals)
    return ("负" if sign == "-" else "") + words


def english(value: int) -> str:
    """Return a cardinal in English: 1234 is one thousand two hundred thirty-four."""
    if value < 0:
        return "minus " + english(-value)
    if value < 20:
        return UNDER_TWENTY[value]
    if value < 100:
        ten, one = divmod(value, 10)
        return TENS[ten] + (f"-{UNDER_TWENTY[one]}" if one else "")
    if value < 1000:
        hundred, rest = divmod(value, 100)
        words = f"{UNDER_TWENTY[hundred]} hundred"
        return f"{words} {english(rest)}" if rest else words
    if value >= LARGEST:
        return english_digits(str(value))
    groups_in_words = list[str]()
    group = 0
    while value:
        value, rest = divmod(value, 1000)
        if rest:
            groups_in_words.append(f"{english(rest)} {GROUPS_EN[group]}".strip())
        group += 1
    return " ".join(reversed(groups_in_words))


def english_ordinal(value: int) -> str:
    """Return an ordinal in English: 21 is twenty-first."""
    head, separator, last = _last_word(english(value))
    if last in ORDINALS:
        last = ORDINALS[last]
    elif last.endswith("y"):
        last = last[:-1] + "ieth"
    else:
        last += "th"
    return head + separator + last


def _last_word(words: str) -> tuple[str, str, str]:
    separator = "-" if words.rfind("-") > words.rfind(" ") else " "
    return words.rpartition(separator)


def english_year(value: int) -> str:
    """Return a year in English: 1999 is nineteen ninety-nine, 2005 two thousand five."""
    century, rest = divmod(value, 100)
    if value < 1000 or 2000 <= value < 2010 or (rest == 0 and century % 10 == 0):
        return english(value)
    if rest == 0:
        return f"{english(century)} hundred"
    if rest < 10:
        return f"{english(century)} oh {english(rest)}"
    return f"{english(century)} {english(rest)}"


def english_digits(digits: str) -> str:
    """Return digits one by one."""
    return " ".join(UNDER_TWENTY[int(digit)] for digit in digits)


def english_number(number: str) -> str:
    """Return a written number, with sign, commas and decimals as they may be."""
    sign, whole, decimals = _parts(number)
    long = len(whole) > 1 and whole.startswith("0")
    words = english_digits(whole) if long else english(int(whole or "0"))
    if decimals:
        words += " point " + english_digits(decimals)
    return ("minus " if sign == "-" else "") + words


def _parts(number: str) -> tuple[str, str, str]:
    """Sign, whole digits and decimals of a number as it is written."""
    number = number.replace(",", "").replace("−", "-")
    sign = "-" if number.startswith("-") else ""
    whole, _, decimals = number.lstrip("+-").partition(".")
    return sign, whole, decimals
