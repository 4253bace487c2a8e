"""Encodings told apart: a text comes back as it was written, or is refused with the
readings that fit; nothing is read as something else.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miaobi.core.errors import BadInput, Damaged
from miaobi.data import encoding
from miaobi.data.encoding import Problem, encoding_of, numbered_lines
from miaobi.data.plausibility import readings
from miaobi.data.text import files

SENTENCES = {
    "zh-Hans": (
        ("gb18030", "gbk", "gb2312", "utf-16-le", "utf-16-be"),
        (
            "今天的天气很好，我们去公园散步。",
            "图书馆里有许多关于历史的书籍。",
            "他说这个问题还没有答案，请再想想。",
            "北京的夏天又湿又热，冬天很冷。",
            "商品质量不错，送货也快。",
        ),
    ),
    "zh-Hant": (
        ("big5", "utf-16-le"),
        (
            "今天的天氣很好，我們去公園散步。",
            "圖書館裡有許多關於歷史的書籍。",
            "他說這個問題還沒有答案，請再想想。",
            "臺灣的夏天又濕又熱。",
            "商品品質不錯，送貨也快。",
        ),
    ),
    "ja": (
        ("shift_jis", "euc_jp", "utf-16-be"),
        (
            "今日はとても良い天気ですね。",
            "図書館で本を読みました。",
            "このもんだいはむずかしいです。",
            "東京の夏は暑くて湿度が高い。",
            "商品はとても気に入りました。",
        ),
    ),
    "ko": (
        ("euc_kr", "cp949", "utf-16-le"),
        (
            "오늘은 날씨가 아주 좋습니다.",
            "도서관에는 역사책이 많이 있습니다.",
            "이 문제는 아직 답이 없습니다.",
            "서울의 여름은 덥고 습합니다.",
            "상품이 마음에 들어요.",
        ),
    ),
    "de": (
        ("latin-1", "cp1252", "utf-16-le"),
        (
            "Die Tür im Flur hört man überall.",
            "Müller fährt später über die Brücke nach Köln.",
            "Schöne Grüße aus München und viel Spaß!",
            "Das Gerät ist größer als nötig.",
            "Wir wünschen Ihnen fröhliche Weihnachten.",
        ),
    ),
    "fr": (
        ("latin-1", "cp1252"),
        (
            "Le garçon a mangé une crème brûlée à côté de la forêt.",
            "L'été dernier, nous étions à la campagne où il faisait très chaud.",
            "Ça a été livré très tôt, mais l'étiquette était abîmée.",
            "Où êtes-vous passés ?",
            "J'espère que vous êtes déjà prêts.",
        ),
    ),
    "es": (
        ("latin-1", "cp1252"),
        (
            "¿Dónde está la estación más próxima?",
            "El niño comió piña y después durmió la siesta.",
            "Mañana será otro día, señor Muñoz.",
            "La canción también sonó en París.",
            "Qué pequeño es el jardín de atrás.",
        ),
    ),
    "pl": (
        ("cp1250", "iso8859-2"),
        (
            "Zażółć gęślą jaźń.",
            "Dzień dobry, chciałbym kupić bilet do Łodzi.",
            "Książka leży na półce obok łóżka.",
            "Wszyscy ludzie rodzą się wolni i równi.",
            "Pogoda jest dziś piękna, więc pójdziemy na spacer.",
        ),
    ),
    "cs": (
        ("cp1250",),
        (
            "Příliš žluťoučký kůň úpěl ďábelské ódy.",
            "Dobrý den, chtěl bych koupit jízdenku.",
            "Kniha leží na polici vedle postele.",
            "Počasí je dnes krásné, půjdeme na procházku.",
            "Můžete mi říct, kde je nádraží?",
        ),
    ),
    "ru": (
        ("cp1251", "koi8-r", "cp866", "utf-16-le"),
        (
            "Сегодня хорошая погода, мы пойдём гулять в парк.",
            "В библиотеке много книг по истории.",
            "На этот вопрос пока нет ответа.",
            "Летом в Москве бывает жарко.",
            "Товар понравился, доставка быстрая.",
        ),
    ),
    "el": (
        ("cp1253",),
        (
            "Σήμερα ο καιρός είναι πολύ καλός.",
            "Στη βιβλιοθήκη υπάρχουν πολλά βιβλία ιστορίας.",
            "Το ερώτημα δεν έχει ακόμη απάντηση.",
            "Το καλοκαίρι στην Αθήνα κάνει ζέστη.",
            "Το προϊόν μου άρεσε πολύ.",
        ),
    ),
    "tr": (
        ("cp1254",),
        (
            "Bugün hava çok güzel, parka gidiyoruz.",
            "Kütüphanede tarih üzerine birçok kitap var.",
            "Bu sorunun henüz bir cevabı yok, lütfen düşünün.",
            "İstanbul’da yaz sıcak geçer.",
            "Ürünü çok beğendim, teşekkür ederim.",
        ),
    ),
    "he": (
        ("cp1255",),
        (
            "מזג האוויר היום יפה מאוד.",
            "בספרייה יש ספרים רבים על היסטוריה.",
            "לשאלה הזאת אין עדיין תשובה.",
            "הקיץ בתל אביב חם ולח.",
            "המוצר מצא חן בעיניי.",
        ),
    ),
    "ar": (
        ("cp1256",),
        (
            "الطقس اليوم جميل جدا.",
            "في المكتبة كتب كثيرة عن التاريخ.",
            "ليس لهذا السؤال جواب بعد.",
            "الصيف في القاهرة حار.",
            "أعجبني المنتج كثيرا.",
        ),
    ),
}
CASES = [
    (language, name) for language, (names, _) in SENTENCES.items() for name in names
]


def text_of(language: str) -> str:
    return "\n".join(SENTENCES[language][1]) + "\n"


@pytest.fixture(autouse=True)
def unsaid() -> None:
    encoding._print_guess.cache_clear()


@pytest.mark.parametrize(("language", "name"), CASES)
def test_five_sentences_are_read_rightly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str, name: str
) -> None:
    """And shown: the encoding, the confidence and ten words."""
    text = text_of(language)
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(name))
    [document] = files.read(path)
    assert document.training_text() == text
    said = capsys.readouterr().err
    assert encoding_of(path).name in said
    assert "confidence 99" in said
    assert text.split()[0] in said
    assert said.count("is not UTF-8") == 1


@given(
    case=st.sampled_from(CASES),
    chosen=st.sets(st.integers(0, 4), min_size=1),
    repeat=st.integers(1, 3),
)
def test_any_few_sentences_are_read_rightly_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[str, str],
    chosen: set[int],
    repeat: int,
) -> None:
    language, name = case
    lines = text_of(language).splitlines(keepends=True)
    text = "".join(lines[number] for number in sorted(chosen)) * repeat
    path = tmp_path_factory.mktemp("few") / "a.txt"
    path.write_bytes(text.encode(name))
    try:
        found = [line for _, line in numbered_lines(path)]
    except BadInput as error:
        assert "--data.encoding" in error.remedy  # noqa: PT017 - it may also be read
    else:
        assert "".join(found) == text


@given(content=st.binary(min_size=1, max_size=300))
@example(b"\xff\xfe")
@example(b"\xfe\xff\xd8")
def test_any_bytes_are_text_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.txt"
    path.write_bytes(content)
    for separator in (None, "\n"):
        try:
            list(files.read(path, separator=separator))
        except (BadInput, Damaged) as error:
            assert str(path) in str(error)  # noqa: PT017 - they may also be read


@pytest.mark.parametrize(
    ("language", "name"), [("zh-Hant", "big5"), ("de", "latin-1"), ("ko", "utf-16-le")]
)
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_records_in_other_encodings(
    tmp_path: Path, language: str, name: str, ending: str
) -> None:
    lines = text_of(language).splitlines()
    rows = [{"text": line, "label": "a"} for line in lines]
    if ending == "csv":
        content = "text,label\n" + "".join(f'"{line}",a\n' for line in lines)
    elif ending == "json":
        content = json.dumps(rows, ensure_ascii=False, indent=1)
    else:
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content.encode(name))
    assert [record for _, record in files.records(path)] == rows


def test_too_little_text_is_refused_until_the_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Ein Café.\n".encode("cp1252"))
    with pytest.raises(BadInput, match="cannot be told") as caught:
        list(files.read(path))
    assert "--data.encoding cp1252  'Ein Café.'" in caught.value.remedy
    [document] = files.read(path, encoding="cp1252")
    assert document.training_text() == "Ein Café.\n"
    [document] = files.read(path, encoding="windows-1250")
    assert document.training_text() == "Ein Café.\n"
    with pytest.raises(BadInput, match="no encoding") as caught:
        list(files.read(path, encoding="cp1525"))
    assert "cp125" in caught.value.remedy
    with pytest.raises(BadInput, match="no encoding"):
        list(files.read(path, encoding="base64"))


def test_a_named_encoding_that_does_not_fit_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"first\n" + "商品質量不錯".encode("big5") + b"\n\xff\xff\n")
    with pytest.raises(BadInput, match=r"a.txt:3: .* the file is Big5"):
        list(files.read(path, encoding="big5hkscs"))


@pytest.mark.parametrize("name", ["latin-1", "gb18030"])
def test_a_line_of_utf8_in_another_file_is_no_mojibake(
    tmp_path: Path, name: str
) -> None:
    language = {"latin-1": "de", "gb18030": "zh-Hans"}[name]
    lines = text_of(language).splitlines(keepends=True)
    path = tmp_path / "a.txt"
    path.write_bytes("".join(lines).encode(name) + lines[0].encode())
    problems = list[Problem]()
    found = [line for _, line in numbered_lines(path, problems.append)]
    assert found == lines
    [problem] = problems
    assert problem.line == 6
    assert "this line is UTF-8" in problem.what


@given(
    ends=st.lists(st.sampled_from(("\n", "\r\n", "\r")), max_size=12),
    words=st.lists(st.text("a好é", max_size=4), min_size=13, max_size=13),
    limit=st.sampled_from((-1, 4, 5, 7)),
    name=st.sampled_from(("utf-8", "utf-16", "gb18030")),
)
def test_every_kind_of_line_end_ends_a_line(
    tmp_path_factory: pytest.TempPathFactory,
    ends: list[str],
    words: list[str],
    limit: int,
    name: str,
) -> None:
    """As Python's universal newlines have it, however short the pieces are read."""
    path = tmp_path_factory.mktemp("ends") / "a.txt"
    text = "".join(map("".join, zip(words, [*ends, ""])))
    path.write_bytes(text.encode(name))
    pieces = list(numbered_lines(path, limit=limit, encoding=name))
    whole = io.StringIO(text, newline=None).read()
    assert "".join(piece for _, piece in pieces) == whole
    lines = dict[int, str]()
    for number, piece in pieces:
        lines[number] = lines.get(number, "") + piece
    assert list(lines.values()) == whole.splitlines(keepends=True)
    assert list(lines) == list(range(1, len(lines) + 1))


def test_of_two_that_read_the_same_the_usual_is_named() -> None:
    assert readings(text_of("de").encode("latin-1"))[0].encoding == "cp1252"
    assert readings(text_of("zh-Hant").encode("big5"))[0].name == "Big5"
