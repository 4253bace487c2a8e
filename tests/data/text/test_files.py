"""Every format, shape and encoding; every kind of damage with its file, line and remedy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from miaobi.core.errors import BadInput, Damaged, MiaobiError, NotFound
from miaobi.data.encoding import Problem, encoding_of
from miaobi.data.text import files
from miaobi.data.text.documents import Document, Special

POEM = "春眠不觉晓，\n处处闻啼鸟。\n夜来风雨声，\n花落知多少。\n"
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1
).filter(str.strip)


def texts(path: Path, **options: object) -> list[str]:
    return [document.training_text() for document in files.read(path, **options)]  # type: ignore[arg-type]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "form",
    [
        "jsonl",
        "json",
        "json-lines-named-json",
        "json-indented",
        "csv",
        "tsv",
        "parquet",
        "wrapped",
    ],
)
def test_formats_hold_the_same_documents(
    tmp_path: Path, form: str, packed: bool
) -> None:
    rows = [
        {"id": str(number), "text": text}
        for number, text in enumerate(['a\nb, "c"', "春眠;不觉晓", "\ttab"])
    ]
    path = tmp_path / {
        "json-lines-named-json": "x.json",
        "json-indented": "x.json",
        "wrapped": "x.json",
    }.get(form, f"x.{form}")
    if form == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif form in ("csv", "tsv"):
        import csv

        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, ["id", "text"], delimiter="," if form == "csv" else "\t"
            )
            writer.writeheader()
            writer.writerows(rows)
    elif form in ("jsonl", "json-lines-named-json"):
        path.write_text(
            "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
            encoding="utf-8",
        )
    else:
        content = {"version": 1, "data": rows} if form == "wrapped" else rows
        path.write_text(
            json.dumps(content, indent=1 if form == "json-indented" else None),
            encoding="utf-8",
        )
    if packed:
        path = written(tmp_path, f"{path.name}.gz", gzip.compress(path.read_bytes()))
    assert texts(path) == [row["text"] for row in rows]


TURNS = [
    "<|im_start|>",
    "user\nhi",
    "<|im_end|>",
    "\n",
    "<|im_start|>",
    "assistant\nhello",
    "<|im_end|>",
    "\n",
]


@pytest.mark.parametrize(
    ("record", "pieces"),
    [
        ({"text": "a", "title": "t"}, ["a"]),
        ({"content": "a", "n": 1}, ["a"]),
        ({"prompt": "1+1=", "completion": "2"}, ["1+1=2"]),
        ({"instruction": "hi", "input": "", "output": "hello"}, TURNS),
        (
            {"instruction": "h", "input": "i", "output": "hello"},
            [*TURNS[:1], "user\nh\n\ni", *TURNS[2:]],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "hi"},
                    {"from": "gpt", "value": "hello"},
                ]
            },
            TURNS,
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "hi"},
                    {
                        "role": "assistant",
                        "content": [{"type": "text", "text": "hello"}],
                    },
                ]
            },
            TURNS,
        ),
    ],
)
def test_shapes(tmp_path: Path, record: dict[str, object], pieces: list[str]) -> None:
    [document] = files.read(written(tmp_path, "x.jsonl", json.dumps(record)))
    assert document.pieces() == pieces
    assert [piece for piece in document.pieces() if isinstance(piece, Special)] == [
        p for p in pieces if p.startswith("<|")
    ]


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-32", "utf-32"),
        ("gb18030", "gb18030"),
        ("gbk", "gb18030"),
    ],
)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_encodings(tmp_path: Path, encoding: str, named: str, ends: str) -> None:
    path = written(
        tmp_path,
        "x.txt",
        ("ascii first\n" * 3 + POEM).replace("\n", ends).encode(encoding),
    )
    assert encoding_of(path).encoding == named
    assert texts(path) == ["ascii first\n" * 3 + POEM]


def test_chinese_after_much_ascii_is_still_recognised(tmp_path: Path) -> None:
    body = "plain english line\n" * 40_000 + POEM
    assert texts(written(tmp_path, "x.txt", body.encode("gb18030"))) == [body]


@given(
    lines=st.lists(TEXTS, min_size=1, max_size=20),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_any_text_survives(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], encoding: str
) -> None:
    text = "\n".join(lines)
    path = written(tmp_path_factory.mktemp("x"), "x.txt", text.encode(encoding))
    if (encoding == "utf-8" and text.startswith("\ufeff")) or (
        "\0" in text and encoding in ("utf-8", "utf-8-sig")
    ):
        return
    assert "".join(texts(path)) == text


@pytest.mark.parametrize("limit", range(1, 12))
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_long_lines_come_in_whole_characters(
    tmp_path: Path, limit: int, encoding: str
) -> None:
    from miaobi.data.encoding import numbered_lines

    text = "ab春眠不觉晓㐀\r\n处处闻啼鸟"
    path = written(tmp_path, "x.txt", text.encode(encoding))
    pieces = list(numbered_lines(path, limit=limit))
    assert "".join(piece for _, piece in pieces).replace("\r", "") == text.replace(
        "\r", ""
    )
    assert {number for number, _ in pieces} == {1, 2}


def test_mixed_encodings_name_the_line(tmp_path: Path) -> None:
    mostly_utf8 = written(
        tmp_path,
        "a.txt",
        POEM.encode() + "花落知多少\n".encode("gb18030") + POEM.encode(),
    )
    with pytest.raises(
        BadInput,
        match=r"a\.txt:5: mixed encodings: this line is GB18030 \('花落知多少'\)",
    ):
        texts(mostly_utf8)
    problems: list[Problem] = []
    assert texts(mostly_utf8, strict=False, report=problems.append) == [POEM + POEM]
    assert [problem.line for problem in problems] == [5]
    mostly_gb = written(
        tmp_path, "b.txt", POEM.encode("gb18030") * 2 + "花落知多少\n".encode()
    )
    with pytest.raises(
        BadInput, match=r"b\.txt:9: mixed encodings: this line is UTF-8"
    ):
        texts(mostly_gb)


def test_separators(tmp_path: Path) -> None:
    path = written(tmp_path, "x.txt", "one\nmore\n\n\n\ntwo\n\nthree\n")
    assert texts(path) == ["one\nmore\n\n\n\ntwo\n\nthree\n"]
    documents = list(files.read(path, separator="\n\n"))
    assert [(document.text, document.meta["line"]) for document in documents] == [
        ("one\nmore", 1),
        ("two", 6),
        ("three", 8),
    ]
    assert texts(written(tmp_path, "y.txt", "a\n%\nb\nc\n%\n"), separator="\n%\n") == [
        "a",
        "b\nc",
    ]
    assert texts(written(tmp_path, "z.txt", "a\nb\n"), separator="\n") == ["a", "b"]


def test_a_long_text_comes_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PART", 50)
    text = POEM * 20
    parts = list(files.read(written(tmp_path, "x.txt", text)))
    assert len(parts) > 5
    assert "".join(part.text for part in parts) == text
    assert [part.continues for part in parts] == [True] * (len(parts) - 1) + [False]


@pytest.mark.parametrize("read_size", [16, 40, 1 << 16])
def test_json_arrays_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_size: int
) -> None:
    monkeypatch.setattr(files, "READ", read_size)
    rows = [{"text": "x" * size + "é]"} for size in (1, 5, 200, 3, 90)]
    assert texts(written(tmp_path, "x.json", json.dumps(rows))) == [
        row["text"] for row in rows
    ]
    documents = list(
        files.read(written(tmp_path, "y.json", json.dumps(rows, indent=2)))
    )
    assert [document.meta["line"] for document in documents] == [2, 5, 8, 11, 14]


def test_a_broken_line_is_named_and_the_rest_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "x.jsonl",
        '{"text": "a"}\n{"text": "b\n{"text": "c"}\n{"x": 1, "y": 2}\n',
    )
    with pytest.raises(BadInput) as caught:
        texts(path)
    assert "x.jsonl:2" in str(caught.value)
    assert '{"text": "b' in str(caught.value)
    assert "strict=false" in str(caught.value)
    problems: list[Problem] = []
    assert texts(path, strict=False, report=problems.append) == ["a", "c"]
    assert [problem.line for problem in problems] == [2, 4]


@pytest.mark.parametrize(
    ("name", "content", "options", "error", "said"),
    [
        ("x.txt", "", {}, BadInput, "holds no text"),
        ("x.txt", " \n\n", {}, BadInput, "holds no text"),
        ("x.jsonl", "", {}, BadInput, "holds no text"),
        ("x.csv", "id,text\n", {}, BadInput, "holds no text"),
        (
            "x.csv",
            "id,review\n1,good\n",
            {"text_column": "reviews"},
            BadInput,
            "Did you mean review?",
        ),
        (
            "x.csv",
            "id,review\n1,good\n",
            {"text_column": "reviews", "strict": False},
            BadInput,
            "x.csv:2: there is no column 'reviews'",
        ),
        ("x.csv", "id,review\n1,good\n", {}, BadInput, "the columns are: id, review"),
        (
            "x.csv",
            'id,text\n1,"a\nb"\n2,c,d\n',
            {},
            BadInput,
            "x.csv:4: 3 fields where the header has 2",
        ),
        ("x.csv", 'id,text\n1,"a', {}, BadInput, "not valid CSV"),
        ("x.txt", "a", {"text_column": "text"}, BadInput, "plain text"),
        (
            "x.json",
            '[{"text": "a"},\n {"text" "b"}]',
            {},
            BadInput,
            "x.json:2: not valid JSON",
        ),
        ("x.json", '[{"text": "a"},\n', {}, BadInput, "closing ] is missing"),
        ("x.json", '{"text":\n "a"', {}, BadInput, "x.json:2: not valid JSON"),
        (
            "x.jsonl",
            '{"text": 3}',
            {"text_column": "text"},
            BadInput,
            "text is 3, not text",
        ),
        ("x.jsonl", '{"text": "\\ud800"}', {}, BadInput, "half a character"),
        ("x.jsonl", "[" * 100_000, {}, BadInput, "not valid JSON"),
        ("x.jsonl", '{"messages": []}', {}, BadInput, "conversation is empty"),
        (
            "x.jsonl",
            '{"messages": [{"role": "usr", "content": "a"}]}',
            {},
            BadInput,
            "Did you mean user",
        ),
        (
            "x.txt",
            b"caf\xe9 \xff\n",
            {},
            BadInput,
            "which encoding it is in cannot be told",
        ),
        ("x.docx", b"PK\x03\x04\0\0", {}, BadInput, "not text"),
        ("x.txt", "\ufeffab".encode("utf-16")[:-1], {}, BadInput, "not valid UTF-16"),
        (
            "x.txt.gz",
            gzip.compress(POEM.encode() * 99, mtime=0)[:60],
            {},
            Damaged,
            "not a whole gzip",
        ),
        ("x.parquet", b"PAR1abc", {}, Damaged, "not a whole Parquet"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    name: str,
    content: str | bytes,
    options: dict[str, object],
    error: type[MiaobiError],
    said: str,
) -> None:
    with pytest.raises(error) as caught:
        texts(written(tmp_path, name, content), **options)
    assert said in str(caught.value)
    assert caught.value.remedy
    assert name in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    written(tmp_path, "poems.txt", "a")
    with pytest.raises(NotFound, match=r"Did you mean poems\.txt"):
        texts(tmp_path / "poem.txt")
    with pytest.raises(NotFound, match="no text files"):
        texts(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty")


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    written(tmp_path, "b.txt", "b")
    written(tmp_path, "a.jsonl", '{"text": "a"}')
    written(tmp_path, "picture.png", b"\x89PNG\0")
    written(tmp_path, ".hidden.txt", "no")
    assert texts(tmp_path) == ["a", "b"]


@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_what_was_written_as_jsonl_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.jsonl"
    path.write_text(
        "\n".join(json.dumps({"text": line}) for line in lines), encoding="utf-8"
    )
    assert texts(path) == lines
    assert all(isinstance(document, Document) for document in files.read(path))


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,label,text\na,1,b\n")
    with pytest.raises(BadInput, match=r"a\.csv:1: the header names 'text' more"):
        texts(path)
    path = written(tmp_path, "b.csv", "text,,\na,,\n")
    assert texts(path) == ["a"]
