"""Texts as they are read aloud: tables of cases in both languages."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.data.audio.spoken import spoken
from miaobi.data.audio.spoken.numbers import chinese, english, english_ordinal


def _split(words: str) -> list[str]:
    return words.split()


ENGLISH = {
    "numbers": [
        ("I have 42 apples.", "I have forty-two apples."),
        (
            "1,234,567 people",
            "one million two hundred thirty-four thousand five hundred sixty-seven people",
        ),
        ("agent 007", "agent zero zero seven"),
        ("It is -5 outside", "It is minus five outside"),
        (
            "the 1st, 2nd, 23rd and 112th",
            "the first, second, twenty-third and one hundred twelfth",
        ),
        ("Q3 was good", "Q three was good"),
        ("GPT-4 and COVID-19", "GPT-four and COVID-nineteen"),
        ("1,5", "one,five"),
    ],
    "decimals": [
        ("pi is 3.14159", "pi is three point one four one five nine"),
        ("version 1.2.3", "version one point two point three"),
        ("0.05", "zero point zero five"),
        ("1/2 of it, 3/4, 2/3", "one half of it, three quarters, two thirds"),
        ("½ a cup", "one half a cup"),
    ],
    "dates": [
        ("On 2024-05-01 we met", "On May first, twenty twenty-four we met"),
        ("May 1, 2024", "May first, twenty twenty-four"),
        ("the 3 June 1999", "the June third, nineteen ninety-nine"),
        ("in 1999 and in 2005", "in nineteen ninety-nine and in two thousand five"),
        ("since 1900, by 1905", "since nineteen hundred, by nineteen oh five"),
        ("the 1990s and the 2010s", "the nineteen nineties and the twenty tens"),
        ("Sept. 9", "September ninth"),
    ],
    "times": [
        ("at 14:30", "at fourteen thirty"),
        ("at 3:05 pm", "at three oh five P M"),
        ("9am to 10 p.m.", "nine A M to ten P M"),
        ("10:00", "ten o'clock"),
        ("12:30:45", "twelve thirty and forty-five seconds"),
    ],
    "money": [
        ("$1", "one dollar"),
        ("$1,234.50", "one thousand two hundred thirty-four dollars and fifty cents"),
        ("$0.99", "ninety-nine cents"),
        ("$5 million", "five million dollars"),
        ("£2.01", "two pounds and one penny"),
        ("€20", "twenty euros"),
        ("50 USD", "fifty dollars"),
        ("$3.5k", "three point five thousand dollars"),
    ],
    "units": [
        ("3.5 km", "three point five kilometers"),
        ("1 kg", "one kilogram"),
        ("60 mph", "sixty miles per hour"),
        ("-40°F", "minus forty degrees Fahrenheit"),
        ("16GB of memory", "sixteen gigabytes of memory"),
        ("10-20 km", "ten to twenty kilometers"),
        ("100 m²", "one hundred square meters"),
    ],
    "percentages": [
        ("a 50% chance", "a fifty percent chance"),
        ("10-20%", "ten to twenty percent"),
        ("0.5%", "zero point five percent"),
    ],
    "telephones": [
        (
            "call 555-123-4567",
            "call five five five, one two three, four five six seven",
        ),
        ("(555) 123-4567", "five five five, one two three, four five six seven"),
        (
            "+1 555 123 4567",
            "plus one, five five five, one two three, four five six seven",
        ),
    ],
    "abbreviations": [
        ("Dr. Smith met Mrs. Jones", "Doctor Smith met Missus Jones"),
        ("tea, coffee, etc.", "tea, coffee, et cetera"),
        ("e.g. this, i.e. that", "for example this, that is that"),
        ("in the U.S.A. today", "in the U S A today"),
        ("open 24/7", "open twenty-four seven"),
    ],
    "addresses": [
        ("see https://example.com/a-b", "see example dot com slash a dash b"),
        ("www.example.org", "W W W dot example dot org"),
        ("me@test.org", "me at test dot org"),
    ],
    "signs": [
        ("R&D", "R and D"),
        ("2 + 2 = 4", "two plus two equals four"),
        ("C++ is fast", "C plus plus is fast"),
        ("a score of 2:1", "a score of two to one"),
        ("well-known and/or", "well-known and/or"),
        ("I ❤️ you 😀!", "I  you !"),
    ],
}

CHINESE = {
    "numbers": [
        ("共42人", "共四十二人"),
        ("1,234,567人", "一百二十三万四千五百六十七人"),
        ("10010元钱", "一万零一十元钱"),
        ("2个苹果", "两个苹果"),
        ("第2个", "第二个"),
        ("2000年前", "两千年前"),
        ("5.5亿", "五点五亿"),
        ("5G手机", "五G手机"),
        ("A4纸", "A四纸"),
        ("共１２３人", "共一百二十三人"),
    ],
    "decimals": [
        ("圆周率是3.14", "圆周率是三点一四"),
        ("1/2的人", "二分之一的人"),
        ("½杯水", "二分之一杯水"),
    ],
    "dates": [
        ("2024年5月1日", "二零二四年五月一日"),
        ("5月12号", "五月十二号"),
        ("日期是2024-12-02", "日期是二零二四年十二月二日"),
        ("始于1949年", "始于一九四九年"),
    ],
    "times": [
        ("下午14:30开始", "下午十四点三十分开始"),
        ("现在是8:05", "现在是八点零五分"),
        ("上午9:00", "上午九点整"),
        ("用时12:30:45", "用时十二点三十分四十五秒"),
    ],
    "money": [
        ("价格是$20", "价格是二十美元"),
        ("只要¥88.5", "只要八十八点五元"),
        ("花了3.5万元", "花了三点五万元"),
        ("欠款€2", "欠款两欧元"),
    ],
    "units": [
        ("约100kg", "约一百千克"),
        ("高1.8m的人", "高一点八米的人"),
        ("气温-3.5℃", "气温零下三点五摄氏度"),
        ("跑了3-5km", "跑了三到五千米"),
        ("面积100㎡", "面积一百平方米"),
    ],
    "percentages": [
        ("湿度60%", "湿度百分之六十"),
        ("涨了-5%", "涨了负百分之五"),
        ("占10~20%", "占百分之十到百分之二十"),
        ("浓度3‰", "浓度千分之三"),
    ],
    "telephones": [
        ("请拨13812345678", "请拨幺三八，幺二三四，五六七八"),
        ("电话010-62345678", "电话零幺零，六二三四五六七八"),
    ],
    "addresses": [
        ("联系me@test.org吧", "联系me 艾特 test 点 org吧"),
        ("网址是www.baidu.com", "网址是W W W 点 baidu 点 com"),
    ],
    "signs": [
        ("2+3=5是对的", "二加三等于五是对的"),
        ("比分3:2赢了", "比分三比二赢了"),
        ("我❤️你😀！", "我你！"),
    ],
}
MIXED = [
    ("今天跑了5km。I ran 5 km.", "今天跑了五千米。I ran five kilometers."),
    ("iPhone 15 Pro发布于2023年", "iPhone fifteen Pro发布于二零二三年"),
    (
        "我买了2个iPad，each $499.",
        "我买了两个iPad，each four hundred ninety-nine dollars.",
    ),
]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *[case for cases in ENGLISH.values() for case in cases],
        *[case for cases in CHINESE.values() for case in cases],
        *MIXED,
    ],
)
def test_what_is_read(written: str, read: str) -> None:
    assert spoken(written).text == read


@pytest.mark.parametrize(("language", "read"), [("en", "two"), ("zh", "二")])
def test_a_number_alone_is_read_in_the_language_of_the_voice(
    language: str, read: str
) -> None:
    assert spoken("2", language).text == read


ALPHABET = "0123456789.,:/-+%$¥€ abcKkmGB年月日点第个℃人.½②Ⅳ😀@_#\n（）"


@given(st.text(ALPHABET, max_size=40))
def test_nothing_is_lost_and_no_digit_is_left(text: str) -> None:
    result = spoken(text)
    spans = [(piece.start, piece.end) for piece in result.pieces]
    assert "".join(text[start:end] for start, end in spans) == text
    assert not re.search(r"\d", result.text)


def test_spoken_words_lead_back_to_what_was_written() -> None:
    result = spoken("It is 3.5 km to Zürich.")
    start = result.text.index("kilometers")
    assert result.slice(start, start + 10) == "3.5 km"
    start = result.text.index("Zürich")
    assert result.slice(start, start + 6) == "Zürich"


@given(st.integers(0, 10**15))
def test_a_cardinal_means_its_number(value: int) -> None:
    """Our words, parsed back: every number is read as itself."""
    assert _value(english(value)) == value
    assert _value_zh(chinese(value)) == value


def test_ordinals() -> None:
    words = [english_ordinal(value) for value in (1, 2, 3, 5, 8, 9, 12, 20, 21, 100)]
    assert ", ".join(words) == (
        "first, second, third, fifth, eighth, ninth, twelfth, twentieth, "
        "twenty-first, one hundredth"
    )


ONES = _split(
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
GROUPS = {
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "quadrillion": 10**15,
}


def _value(words: str) -> int:
    total = group = 0
    for word in words.replace("-", " ").split():
        if word in ONES:
            group += ONES.index(word)
        elif word in TENS:
            group += 10 * (TENS.index(word) + 2)
        elif word == "hundred":
            group *= 100
        else:
            total += group * GROUPS[word]
            group = 0
    return total + group


def _value_zh(words: str) -> int:
    for unit, size in (("亿", 10**8), ("万", 10**4)):
        head, found, rest = words.rpartition(unit)
        if found:
            return _value_zh(head) * size + _value_zh(rest)
    total = digit = 0
    for word in words:
        if word in "零一二三四五六七八九":
            digit = "零一二三四五六七八九".index(word)
        elif word == "两":
            digit = 2
        else:
            total += (digit or 1) * {"十": 10, "百": 100, "千": 1000}[word]
            digit = 0
    return total + digit
