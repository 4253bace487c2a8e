"""`miaobi code`: positions, fills, words, and diffs that parse and are applied on request."""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.small import small_bundle
from tests.engines.text.test_filling import BEFORE, BEHIND, FILL, coder_bundle

from miaobi import cli
from miaobi.core.artifacts import Facts, Text
from miaobi.core.errors import BadInput, ContextExceeded, NotFound, Unsupported
from miaobi.verbs import code
from miaobi.verbs.code import UnusableAnswer
from miaobi.verbs.code.source import Source, read, syntax_error

SOURCE = """import math


class Circle:
    def area(self, r):
        result = math.pi * r * r
        return result
"""
SHORTER = "def area(self, r):\n    return math.pi * r ** 2"
ANSWER = f"Here it is:\n```python\n{SHORTER}\n```\nIt is shorter."


@dataclass
class Speaker:
    """A model that chats, and gives these answers by its seeds."""

    answers: list[str]
    name: str = "speaker"
    chats: bool = True
    asked: list[Any] = field(default_factory=list)

    def generate(self, ask: Any, *, seed: int, **controls: Any) -> list[Text]:
        self.asked.append(ask)
        return [Text(self.answers[seed], Facts(""))]

    def __enter__(self) -> Speaker:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "circle.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(coder_bundle(tmp_path_factory.mktemp("coder") / "bundle"))


def speaking(monkeypatch: pytest.MonkeyPatch, *answers: str) -> Speaker:
    speaker = Speaker(list(answers))
    monkeypatch.setattr(code, "load", lambda name, **options: speaker)
    return speaker


def test_a_fill_at_the_marker_is_written_on_request(coder: str, tmp_path: Path) -> None:
    path = tmp_path / "area.py"
    marked = f"{BEFORE}<cursor>{BEHIND}"
    path.write_text(marked, encoding="utf-8")
    result = code.complete(path, model=coder, engine="native")
    assert (result.text, result.parses, result.applied) == (FILL, True, False)
    assert path.read_text() == marked, "nothing is written without being asked"
    path.chmod(0o755)
    assert code.complete(path, model=coder, engine="native", apply=True).applied
    assert path.read_text() == BEFORE + FILL + BEHIND
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_fill_at_a_line_and_column(
    coder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "area.py"
    path.write_text(BEFORE + BEHIND, encoding="utf-8")
    options = ["--at", "2:12", "--model", coder, "--engine", "native"]
    assert cli.main(["code", "complete", str(path), *options]) == 0
    assert capsys.readouterr().out == f"{FILL}\n"


def test_long_files_are_cut_around_the_position(coder: str, tmp_path: Path) -> None:
    path = tmp_path / "area.py"
    path.write_text(
        "# a\n" * 300 + BEFORE + "<cursor>" + BEHIND + "print(2)\n" * 300, "utf-8"
    )
    assert code.complete(path, model=coder, engine="native").model
    path.write_text("<cursor>" + "r" * 500, encoding="utf-8")
    with pytest.raises(ContextExceeded):
        code.complete(path, model=coder, engine="native")


def test_a_model_not_trained_to_fill_is_refused(tmp_path: Path) -> None:
    poet = str(small_bundle(tmp_path / "poet"))
    path = tmp_path / "a.py"
    path.write_text("x = <cursor>\ny = 2\n", encoding="utf-8")
    with pytest.raises(Unsupported, match="not trained to fill in"):
        code.complete(path, model=poet, engine="native")
    path.write_text("x = ", encoding="utf-8")
    at_the_end = code.complete(path, model=poet, engine="native", max_new_tokens=4)
    assert at_the_end.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": "9:1"}, "no position 9:1"),
        ({"at": "1:99"}, "no position 1:99"),
        ({"at": "first"}, "at is 'first'"),
        ({"marker": "r"}, "times"),
    ],
)
def test_positions_outside_the_file_are_named(
    file: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        code.complete(file, model="none", **options)


def test_code_is_explained(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = speaking(monkeypatch, " It computes an area. ")
    result = code.explain(file, model="speaker", lines="5-7")
    assert str(result) == "It computes an area."
    [[message]] = speaker.asked
    assert "```python\ndef area(self, r):\n    result" in message["content"]
    assert "class Circle" not in message["content"]


def test_a_diff_parses_and_is_applied_on_request(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaking(monkeypatch, "no code (", ANSWER)
    result = code.refactor(file, model="speaker", lines="5-7")
    assert file.read_text() == SOURCE and not result.applied and result.parses
    patched = subprocess.run(
        ["patch", "-p0", "-o", "-", str(file)],
        input=result.text,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert code.refactor(file, model="speaker", lines="5-7", apply=True).applied
    new = file.read_text()
    assert new == patched
    assert new.endswith("    def area(self, r):\n        return math.pi * r ** 2\n")
    ast.parse(new)


def test_an_answer_that_does_not_parse_changes_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaking(monkeypatch, *["```python\ndef area(:\n```"] * 3)
    with pytest.raises(UnusableAnswer, match="line 5"):
        code.refactor(file, model="speaker", lines="5-7", apply=True)
    assert file.read_text() == SOURCE
    assert list(file.parent.iterdir()) == [file]


def test_code_that_stays_is_no_diff(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaking(monkeypatch, f"```\n{SOURCE}```")
    result = code.refactor(file, model="speaker", apply=True)
    assert result.text == "The code stays as it is." and not result.applied


@pytest.mark.parametrize("verb", [code.explain, code.refactor])
def test_sources_that_do_not_parse_are_named_by_line(verb: Any, file: Path) -> None:
    file.write_text("x = 1\n\ndef broken(:\n    pass\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"circle\.py:3: invalid syntax"):
        verb(file, model="none")


def test_bad_files_and_lines_are_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing.py"):
        code.explain(tmp_path / "nothing.py", model="none")
    for lines in ("0-3", "4-2", "5-99", "all"):
        with pytest.raises(BadInput, match="lines 1 to 7"):
            code.explain(file, model="none", lines=lines)
    file.write_bytes(b"# \xff\n")
    with pytest.raises(BadInput, match="not UTF-8"):
        code.refactor(file, model="none")


def test_a_model_that_does_not_chat_cannot_explain(file: Path, tmp_path: Path) -> None:
    poet = str(small_bundle(tmp_path / "poet"))
    with pytest.raises(Unsupported, match="no chat template"):
        code.explain(file, model=poet, engine="native")


@given(
    ends=st.sampled_from(["\n", "\r\n"]),
    final=st.booleans(),
    indentation=st.integers(0, 3),
)
def test_a_part_replaced_by_itself_is_the_same(
    ends: str, final: bool, indentation: int
) -> None:
    pad = "    " * indentation
    text = ends.join(["x = 1", f"{pad}y = [", f"{pad}    2,", f"{pad}]"])
    text += ends if final else ""
    source = Source(Path("a.py"), text)
    part = source.part("2-4")
    assert part.text.startswith("y = [\n    2")
    assert part.replaced(part.text) == source
    assert not source.diff(part.replaced(part.text))


def test_a_zero_byte_is_a_syntax_error(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"x = 1\0\n")
    assert syntax_error(read(path).text) is not None
