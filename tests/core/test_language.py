"""Texts in two languages: what is put together of others keeps both."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from miaobi.core import gguf
from miaobi.core.errors import BadInput, MiaobiError
from miaobi.core.language import (
    in_each,
    joined,
    located,
    preferred,
    say,
    speaking,
    spoken,
    wordings_of,
)
from miaobi.tune.guess import guess

REASON = say("it is empty", "文件为空")


def test_a_text_around_another_keeps_both_languages() -> None:
    around = in_each(lambda: say(f"refused: {REASON}.", f"已拒绝：{REASON}。"))
    assert wordings_of(around) == {
        "en": "refused: it is empty.",
        "zh": "已拒绝：文件为空。",
    }


def test_texts_one_after_another_keep_both_languages() -> None:
    assert wordings_of("a.txt: " + REASON) == {
        "en": "a.txt: it is empty",
        "zh": "a.txt: 文件为空",
    }
    assert wordings_of(joined(("a", "", REASON), say(", ", "、"))) == {
        "en": "a, it is empty",
        "zh": "a、文件为空",
    }
    assert wordings_of(located("a.txt:3", REASON))["zh"] == "a.txt:3：文件为空"


def test_an_f_string_takes_the_language_that_is_spoken_then() -> None:
    with speaking("zh"):
        assert f"{REASON}" == str(REASON) == spoken(REASON) == "文件为空"
    with speaking("en"):
        assert f"{REASON:.5}" == "it is"


def test_both_languages_reach_another_process() -> None:
    assert wordings_of(pickle.loads(pickle.dumps(REASON))) == wordings_of(REASON)


def test_an_error_is_told_whole_in_both_languages() -> None:
    error = BadInput(REASON, say("Write something.", "请写入内容。"))
    assert wordings_of(error.sentence) == {
        "en": "it is empty Write something.",
        "zh": "文件为空 请写入内容。",
    }
    assert BadInput("empty").sentence == "empty"


@pytest.mark.parametrize(
    ("header", "chosen"),
    [("zh-CN,en;q=0.5", "zh"), ("fr, en;q=0", None), ("de,en;q=x,zh;q=0.1", "zh")],
)
def test_the_language_of_a_header(header: str, chosen: str | None) -> None:
    assert preferred(header) == chosen


def _no_task_fits(folder: Path) -> MiaobiError:
    path = folder / "odd.jsonl"
    path.write_text(json.dumps({"up": 3}) + "\n")
    with pytest.raises(MiaobiError) as caught:
        guess(str(path), "")
    return caught.value


def _cut_off(folder: Path) -> MiaobiError:
    path = folder / "model.gguf"
    path.write_bytes(gguf.MAGIC + bytes(3))
    with pytest.raises(MiaobiError) as caught:
        gguf.read(path)
    return caught.value


@pytest.mark.parametrize("fail", [_no_task_fits, _cut_off])
def test_errors_put_together_of_reasons_are_in_one_language(
    fail: Callable[[Path], MiaobiError], tmp_path: Path
) -> None:
    with speaking("en"):
        error = fail(tmp_path)
    wordings = wordings_of(error.problem)
    assert wordings["en"].isascii()
    words = wordings["zh"].replace(str(tmp_path), "")
    assert not [word for word in (" is ", " the ", " not ") if word in words], words
