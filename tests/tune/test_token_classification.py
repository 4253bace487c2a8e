"""Token classification: spans survive every way of writing them, tags are legal
sequences, and the score is seqeval's.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.small import small_bundle
from tests.tune.encoders import base, examples, fit, make, metrics_of

from miaobi.core.errors import BadInput
from miaobi.data.labelled import tagged
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base, open_base
from miaobi.tune.tasks import token_classification as task
from miaobi.tune.text.characters import split_chinese

PEOPLE, CITIES = ("Ada", "Bob", "Eve"), ("Paris", "Rome", "Oslo")
RECORDS = [
    {
        "tokens": [who, "lives", "in", where, "."],
        "tags": ["B-person", "O", "O", "B-place", "O"],
    }
    for who, where in itertools.product(PEOPLE, CITIES)
]
CHINESE = [
    {
        "text": "王明在北京",
        "entities": [
            {"start": 0, "end": 2, "label": "person"},
            {"start": 3, "end": 5, "label": "place"},
        ],
    },
    {
        "text": "李小红在上海",
        "entities": [
            {"start": 0, "end": 3, "label": "person"},
            {"start": 4, "end": 6, "label": "place"},
        ],
    },
    {"text": "我很好", "entities": []},
]


@pytest.fixture(params=["bert", "llama", "gpt"])
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Base:
    return (
        open_base(str(small_bundle(tmp_path / "gpt")))
        if request.param == "gpt"
        else base(tmp_path / request.param, request.param)
    )


def config(**settings: Any) -> task.Config:
    return task.Config(**{"dropout": 0.0, **settings})


def spans(record: dict[str, Any]) -> list[tuple[str, str]]:
    columns = task.columns(record, config())
    return [
        (columns["text"][item["start"] : item["end"]], item["label"])
        for item in columns["entities"]
    ]


def test_it_learns_on_any_base_and_answers_with_spans(origin: Base) -> None:
    learner = make(task, config(), origin, RECORDS)
    fit(learner, task, config(), RECORDS, steps=80)
    values = metrics_of(learner, task, config(), RECORDS)
    assert values["f1"] == values["accuracy"] == values["f1/place"] == 1.0
    assert learner.answer({"text": "Eve lives in Rome ."}) == [
        {"text": "Eve", "start": 0, "end": 3, "label": "person"},
        {"text": "Rome", "start": 13, "end": 17, "label": "place"},
    ]


def test_chinese_names_end_anywhere(tmp_path: Path) -> None:
    learner = make(task, config(), base(tmp_path / "b"), CHINESE)
    fit(learner, task, config(), CHINESE)
    assert metrics_of(learner, task, config(), CHINESE)["f1"] == 1.0


def test_letters_stand_alone_and_are_saved_so(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    pieces = [
        ("<unk>", 0.0),
        ("▁", -1.0),
        *((piece, -2.0) for piece in ("北京", "北", "京", "人", "▁go", "go")),
    ]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="always", split=False
    )
    words = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>"
    )
    assert words.tokenize("北京人") == ["▁", "北京", "人"]
    apart = split_chinese(words)
    assert apart.tokenize("北京人") == ["▁", "北", "京", "人"] and apart.tokenize(
        "go go"
    ) == words.tokenize("go go")
    apart.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert (
        again.tokenize("北京人") == ["▁", "北", "京", "人"]
        and again.pad_token == "<unk>"
    )
    assert split_chinese(again).tokenize("北京人") == ["▁", "北", "京", "人"]


def test_a_saved_model_says_the_same(tmp_path: Path) -> None:
    learner = make(task, config(), base(tmp_path / "b"), CHINESE)
    fit(learner, task, config(), CHINESE, steps=20)
    learner.net.save_pretrained(tmp_path / "tuned")
    learner.save(tmp_path / "tuned")
    again = make(
        task, config(), Base(base(tmp_path / "c").weights, tmp_path / "tuned"), CHINESE
    ).eval()
    batch = learner.collate(
        [learner.encode(task.columns(record, config()), 0) for record in CHINESE]
    )
    same = again.collate(
        [again.encode(task.columns(record, config()), 0) for record in CHINESE]
    )
    assert all((batch[name] == same[name]).all() for name in batch)
    np.testing.assert_allclose(
        again.logits(same).detach().numpy(),
        learner.logits(batch).detach().numpy(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_schemes_say_the_same() -> None:
    words = ["Ada", "Bob", "lives", "in", "New", "York"]
    expected = [("Ada", "person"), ("Bob", "person"), ("New York", "place")]
    assert (
        spans(
            {
                "tokens": words,
                "tags": ["B-person", "B-person", "O", "O", "B-place", "I-place"],
            }
        )
        == expected
    )
    assert (
        spans(
            {
                "tokens": words,
                "tags": ["S-person", "S-person", "O", "O", "B-place", "E-place"],
            }
        )
        == expected
    )
    assert (
        spans({"tokens": words[2:], "tags": ["O", "O", "place", "place"]})
        == expected[2:]
    )
    assert spans(
        {"tokens": list("王明在京"), "tags": ["B-人", "I-人", "O", "B-地"]}
    ) == [("王明", "人"), ("京", "地")]
    assert (
        task.columns({"tokens": list("王明在京"), "tags": ["O"] * 4}, config())["text"]
        == "王明在京"
    )


def test_files_of_conll(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(
        "-DOCSTART- O\n\nAda NNP B-person\nlives VBZ O\n\nRome B-place\n",
        encoding="utf-8",
    )
    records = list(tagged.read(str(tmp_path / "a.conll"), ""))
    assert [record for _, record in records] == [
        {"tokens": ["Ada", "lives"], "tags": ["B-person", "O"]},
        {"tokens": ["Rome"], "tags": ["B-place"]},
    ]
    assert [location.rpartition(":")[2] for location, _ in records] == ["3", "6"]
    assert list(tagged.read(str(tmp_path), "")) == records
    (tmp_path / "b.conll").write_text("Ada\n", encoding="utf-8")
    with pytest.raises(BadInput, match="a word without a tag"):
        list(tagged.read(str(tmp_path / "b.conll"), ""))
    (tmp_path / "c.jsonl").write_text(
        '{"text": "Ada", "entities": []}\n', encoding="utf-8"
    )
    assert next(iter(tagged.read(str(tmp_path / "c.jsonl"), "")))[1] == {
        "text": "Ada",
        "entities": [],
    }


def test_viterbi_is_the_likeliest_legal_sequence() -> None:
    draw = np.random.default_rng(0)
    learner_tags = task.tags_of(["a", "b"])
    barred = np.array(
        [
            [
                -1e9 if now[0] == "I" and before not in (now, f"B-{now[2:]}") else 0.0
                for now in learner_tags
            ]
            for before in learner_tags
        ]
    )
    first = np.array([-1e9 if tag[0] == "I" else 0.0 for tag in learner_tags])
    for _ in range(20):
        scores = draw.normal(size=(4, 5))

        def total(path: tuple[int, ...], scores: np.ndarray = scores) -> float:
            return (
                sum(scores[at, tag] for at, tag in enumerate(path))
                + first[path[0]]
                + sum(barred[pair] for pair in itertools.pairwise(path))
            )

        best = max(itertools.product(range(5), repeat=4), key=total)
        assert tuple(task.viterbi(scores, barred, first)) == best


def test_the_learner_bars_what_no_scheme_allows(tmp_path: Path) -> None:
    learner = make(task, config(), base(tmp_path / "b"), RECORDS)
    assert learner.tags == ["O", "B-person", "I-person", "B-place", "I-place"]
    legal = {
        (before, now)
        for before, now in itertools.product(learner.tags, repeat=2)
        if learner.step_scores[learner.tags.index(before), learner.tags.index(now)] == 0
    }
    assert (
        ("B-person", "I-person") in legal
        and ("I-person", "I-person") in legal
        and ("O", "B-place") in legal
    )
    assert (
        not {("O", "I-person"), ("B-place", "I-person"), ("I-place", "I-person")}
        & legal
    )
    assert [tag for tag, score in zip(learner.tags, learner.first_scores) if score] == [
        "I-person",
        "I-place",
    ]


def test_span_f1_counts_as_conll_does() -> None:
    Span = task.Span
    true_spans = {Span(0, 3, "person"), Span(5, 9, "place")}
    spans = [Span(0, 3, "person"), Span(5, 8, "place"), Span(10, 12, "place")]
    counts = task.span_counts(spans, true_spans, ["person", "place"])
    assert counts["f1"].tolist() == [1, 2, 1]
    assert counts["f1/place"].tolist() == [0, 2, 1]
    assert counts["f1/person"].tolist() == [1, 0, 0]


def test_long_texts_are_cut_between_names_and_read_whole(tmp_path: Path) -> None:
    learner = make(task, config(), base(tmp_path / "b", positions=16), RECORDS)
    text = "Ada lives in Paris . " * 8
    entities = [
        {"start": at * 21 + start, "end": at * 21 + end, "label": label}
        for at in range(8)
        for start, end, label in ((0, 3, "person"), (13, 18, "place"))
    ]
    parts = learner.split({"text": text, "entities": entities}, 16)
    assert (
        "".join(part["text"] for part in parts) == text
        and sum(len(part["entities"]) for part in parts) == 16
    )
    assert all(
        part["text"][item["start"] : item["end"]] in ("Ada", "Paris")
        for part in parts
        for item in part["entities"]
    )
    assert all(learner.length(part) <= 16 for part in parts)
    fit(learner, task, config(), parts, steps=80)
    names = learner.answer({"text": text})
    assert len(names) == 16 and all(
        text[item["start"] : item["end"]] == item["text"] for item in names
    )


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"text": "Ada"}, "no entities"),
        ({"text": " ", "entities": []}, "no text"),
        ({"tokens": ["Ada"], "tags": []}, "1 tokens and 0 tags"),
        ({"tokens": ["Ada"]}, "no tags"),
        ({"tokens": ["Ada"], "tags": [3]}, "not names of tags"),
        ({"tokens": ["Ada"], "tags": ["Q-person"]}, "no known scheme"),
        (
            {"text": "Ada", "entities": [{"start": 0, "end": 9, "label": "x"}]},
            "from 0 to 9 in a text of 3",
        ),
        (
            {
                "text": "Ada",
                "entities": [
                    {"start": 0, "end": 3, "label": "x"},
                    {"start": 2, "end": 3, "label": "y"},
                ],
            },
            "overlap",
        ),
        ({"text": "Ada", "entities": ["Ada"]}, "an entity is 'Ada'"),
    ],
)
def test_records_that_cannot_be_used(record: dict[str, Any], what: str) -> None:
    with pytest.raises(Unusable, match=what):
        task.columns(record, config())


def test_data_that_cannot_teach() -> None:
    with pytest.raises(BadInput, match="No example has an entity"):
        task.survey(
            examples(task, config(), [{"text": "Ada", "entities": []}]), config()
        )
    spec = task.survey(examples(task, config(), RECORDS), config())
    with pytest.raises(Unusable, match="'plac' does not occur"):
        task.check(
            examples(
                task,
                config(),
                [
                    {
                        "text": "Ada",
                        "entities": [{"start": 0, "end": 3, "label": "plac"}],
                    }
                ],
            )[0],
            spec,
            config(),
        )
