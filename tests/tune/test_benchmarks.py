"""Files of CLUE and of translation benchmarks in exactly their layout, read as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from miaobi.core.errors import BadInput
from miaobi.data.text.shapes import Unusable
from miaobi.tune import examples
from miaobi.tune.config import DataConfig
from miaobi.tune.guess import guess
from miaobi.tune.learner import Example
from miaobi.tune.tasks import tasks

TNEWS = [
    {
        "label": "102",
        "label_desc": "news_entertainment",
        "sentence": "江疏影甜甜圈自拍，迷之角度竟这么好看，美吸引一切事物",
        "keywords": "江疏影,美少女,经纪人,甜甜圈",
    },
    {
        "label": "110",
        "label_desc": "news_military",
        "sentence": "以色列大规模空袭开始！伊朗多个军事目标遭遇打击",
        "keywords": "伊朗,圣城军,叙利亚",
    },
]
AFQMC = [
    {
        "sentence1": "双十一花呗提额在哪",
        "sentence2": "里可以提花呗额度",
        "label": "0",
    },
    {
        "sentence1": "蚂蚁借呗等额还款可以换成先息后本吗",
        "sentence2": "借呗有先息到期还本吗",
        "label": "1",
    },
]
OCNLI = [
    {
        "level": "medium",
        "sentence1": "身上裹一件工厂发的棉大衣,手插在袖筒里",
        "sentence2": "身上至少一件衣服",
        "label": "entailment",
        "label0": "entailment",
        "label1": "entailment",
        "label2": "entailment",
        "label3": "entailment",
        "label4": "entailment",
        "genre": "lit",
        "prem_id": "lit_635",
        "id": 0,
    },
    {
        "level": "hard",
        "sentence1": "月光照到下面陡峭的山坡上",
        "sentence2": "山坡上有人",
        "label": "neutral",
        "label0": "neutral",
        "label1": "neutral",
        "label2": "neutral",
        "label3": "neutral",
        "label4": "neutral",
        "genre": "lit",
        "prem_id": "lit_591",
        "id": 1,
    },
]
CLUENER = [
    {
        "text": "浙商银行企业信贷部叶老桂博士则从另一个角度对五道门槛进行了解读。",
        "label": {
            "name": {"叶老桂": [[9, 11]]},
            "company": {"浙商银行": [[0, 3]]},
        },
    },
    {"text": "生生不息CSOL生化狂潮让你填弹狂扫", "label": {"game": {"CSOL": [[4, 7]]}}},
]
QUESTIONS = [
    {
        "question": "范廷颂是什么时候被任为主教的？",
        "id": "TRAIN_186_QUERY_0",
        "answers": [{"text": "1963年", "answer_start": 30}],
    }
]
CONTEXT = (
    "范廷颂枢机（，），圣名保禄·若瑟（），是越南罗马天主教枢机。"
    "1963年被任为主教；1990年被擢升为天主教河内总教区宗座署理。"
)
CMRC = {
    "version": "v1.0",
    "data": [
        {
            "paragraphs": [{"id": "TRAIN_186", "context": CONTEXT, "qas": QUESTIONS}],
            "id": "TRAIN_186",
            "title": "范廷颂",
        }
    ],
}
FIRST_CMRC = [
    {
        "context_id": "TRIAL_0",
        "context_text": CONTEXT,
        "qas": [
            {
                "query_id": "TRIAL_0_QUERY_0",
                "query_text": "范廷颂是什么时候被任为主教的？",
                "answers": ["1963年", "1963年"],
            }
        ],
        "title": "范廷颂",
    }
]


def lines(folder: Path, name: str, records: list[Any]) -> Path:
    path = folder / name
    rows = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def read(
    path: Path, task_name: str, strict: bool = True, **head: Any
) -> tuple[list[Example], dict[str, Any]]:
    """The examples in the order of the file, and the facts of preparation."""
    task = tasks.get(task_name)
    config = DataConfig(str(path), validation=0.0, test=0.0, strict=strict)
    folder = examples.prepare(
        config, task, task.Config(**head), False, path.parent / "prepared"
    )
    rows = examples.read_split(folder, "train", task)
    return sorted(rows, key=lambda row: row.location), examples.manifest(folder)


def test_tnews(tmp_path: Path) -> None:
    path = lines(tmp_path, "train.json", TNEWS)
    rows, facts = read(path, "text-classification")
    assert [row.columns["label"] for row in rows] == ["102", "110"]
    assert rows[0].columns["text"] == TNEWS[0]["sentence"]
    assert facts["unused"] == {"keywords": 2, "label_desc": 2}


@pytest.mark.parametrize(
    ("records", "labels"),
    [(AFQMC, ["0", "1"]), (OCNLI, ["entailment", "neutral"])],
    ids=["afqmc", "ocnli"],
)
def test_pairs_of_sentences(
    tmp_path: Path, records: list[dict[str, Any]], labels: list[str]
) -> None:
    path = lines(tmp_path, "train.json", records)
    rows, _ = read(path, "text-classification")
    assert [row.columns["label"] for row in rows] == labels
    assert rows[0].columns["text"] == records[0]["sentence1"]
    assert rows[0].columns["text_pair"] == records[0]["sentence2"]


def test_ocnli_without_a_gold_label(tmp_path: Path) -> None:
    path = lines(tmp_path, "train.json", [*OCNLI, {**OCNLI[0], "label": "-"}])
    with pytest.raises(BadInput, match=r"train\.json:3: no label"):
        read(path, "text-classification")
    rows, facts = read(path, "text-classification", strict=False)
    assert (len(rows), facts["problems"]["count"]) == (2, 1)


def test_cluener(tmp_path: Path) -> None:
    path = lines(tmp_path, "train.json", CLUENER)
    assert guess(str(path), "").task == "token-classification"
    rows, facts = read(path, "token-classification")
    entities = rows[0].columns["entities"]
    text = rows[0].columns["text"]
    assert [
        (text[item["start"] : item["end"]], item["label"]) for item in entities
    ] == [
        ("浙商银行", "company"),
        ("叶老桂", "name"),
    ]
    assert not facts["unused"]
    task = tasks.get("token-classification")
    moved = {"text": "好的", "label": {"name": {"叶": [[0, 0]]}}}
    with pytest.raises(Unusable, match="'叶' is not at 0 to 0"):
        task.columns(moved, task.Config())


@pytest.mark.parametrize("content", [CMRC, FIRST_CMRC], ids=["clue", "first"])
def test_cmrc2018(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert guess(str(path), "").task == "extractive-questions"
    [row], facts = read(path, "extractive-questions")
    assert row.columns["answers"][0] == {"text": "1963年", "start": 30}
    assert not facts["unused"]


def test_a_translation_by_language(tmp_path: Path) -> None:
    record = {"translation": {"en": "Hello.", "zh": "你好。"}}
    path = lines(tmp_path, "wmt.jsonl", [record])
    assert guess(str(path), "").task == "seq2seq"
    [row], _ = read(path, "seq2seq")
    assert row.columns == {"source": "Hello.", "target": "你好。"}
    [row], facts = read(path, "seq2seq", source="zh", target="en")
    assert row.columns == {"source": "你好。", "target": "Hello."}
    assert not facts["unused"]


def test_texts_of_ms_swift(tmp_path: Path) -> None:
    turns = [{"role": "assistant", "content": "我爱音乐"}]
    path = lines(tmp_path, "swift.jsonl", [{"messages": turns}])
    assert guess(str(path), "").task == "causal"
    [row], _ = read(path, "causal")
    assert row.columns == {"prompt": "", "text": "我爱音乐"}


def test_questions_about_a_text_stay_so(tmp_path: Path) -> None:
    record = {"question": "谁？", "context": "小李来了。", "answer": "小李"}
    assert (
        guess(str(lines(tmp_path, "a.jsonl", [record])), "").task
        == "extractive-questions"
    )
    path = lines(tmp_path, "b.jsonl", [{**record, "answer": "是一位朋友"}])
    assert guess(str(path), "").task == "chat"
    [row], facts = read(path, "chat")
    assert row.columns["messages"][0]["content"] == "谁？\n\n小李来了。"
    assert not facts["unused"]


def test_a_teacher_is_asked_no_answer_that_people_rejected(tmp_path: Path) -> None:
    task = tasks.get("distillation")
    with pytest.raises(Unusable, match="answers that people judged"):
        task.columns({"prompt": "q", "chosen": "a", "rejected": "b"}, task.Config())
    with pytest.raises(Unusable, match="answers that people judged"):
        task.columns({"prompt": "q", "response": "a", "label": False}, task.Config())


def test_classes_of_ms_swift(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "天气真好"}]
    path = lines(tmp_path, "swift.jsonl", [{"messages": turns, "label": 1}])
    [row], _ = read(path, "text-classification")
    assert row.columns == {"text": "天气真好", "label": "1"}
    dialogue = [*turns, {"role": "assistant", "content": "是"}]
    path = lines(tmp_path, "dialogue.jsonl", [{"messages": dialogue, "label": "x"}])
    with pytest.raises(BadInput, match="a conversation, not one text"):
        read(path, "text-classification")
