"""Further sources of training examples: how many, which, what is left out, and that
what is held out stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st
from PIL import Image
from tests.tune.picture_sets import class_folders

from miaobi.core.errors import BadInput, MiaobiError, NotFound
from miaobi.tune.examples import (
    SPLITS,
    Config,
    Source,
    content,
    manifest,
    prepare,
    read_split,
)
from miaobi.tune.mixing import describe, subset, with_mixture, with_replay
from miaobi.tune.tasks import (
    chat,
    extractive_questions,
    image_classification,
    text_classification,
)

SPEC = {"problem": "single", "labels": ["bad", "good"]}
HEAD = text_classification.Config()


def written(path: Path, subject: str, numbers: range, **more: Any) -> Path:
    rows = [
        {"text": f"{subject} {at}", "label": "good" if at % 2 else "bad", **more}
        for at in numbers
    ]
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
    )
    return path


class Sources:
    """Eighty examples of one's own, and two further sources that overlap in ten."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = written(root / "own.jsonl", "own", range(80))
        self.general = written(root / "general.jsonl", "general", range(50))
        self.poems = written(root / "poems.jsonl", "poems", range(20))
        with self.poems.open("a", encoding="utf-8") as file:
            file.writelines(
                self.general.read_text(encoding="utf-8").splitlines(True)[:10]
            )
        self.plain = prepare(
            Config(path=str(self.path)),
            text_classification,
            HEAD,
            False,
            root / "examples",
        )

    def mixed(self, general: float, poems: float = 0.0, **more: Any) -> Path:
        config = Config(
            path=str(self.path),
            mix={
                "general": Source(str(self.general), share=general),
                "poems": Source(str(self.poems), share=poems),
            },
            **more,
        )
        return with_mixture(self.plain, config, text_classification, HEAD, SPEC, False)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))


def texts(folder: Path, split: str = "train") -> list[str]:
    return [
        example.columns["text"]
        for example in read_split(folder, split, text_classification)
    ]


def mix_of(folder: Path) -> Mapping[str, Any]:
    mix: Mapping[str, Any] = manifest(folder)["mix"]
    return mix


def test_a_share_counts_by_the_training_examples_of_the_data_itself(
    sources: Sources,
) -> None:
    folder = sources.mixed(0.25, 0.1)
    own = texts(sources.plain)
    assert len(own) == 64
    assert texts(folder)[:64] == own
    assert sum(text.startswith("general") for text in texts(folder)[64:]) >= 16
    assert manifest(folder)["splits"] == {
        "train": 64 + 16 + mix_of(folder)["poems"]["added"],
        "validation": 8,
        "test": 8,
    }
    assert mix_of(folder)["general"]["added"] == 16
    assert mix_of(folder)["poems"]["wanted"] == 6
    assert sources.mixed(0.25, 0.1) == folder
    assert len({sources.mixed(0.25), sources.mixed(0.5), sources.plain}) == 3


def test_no_share_is_the_data_itself(sources: Sources) -> None:
    assert sources.mixed(0.0) == sources.plain
    missing = Config(
        path=str(sources.path), mix={"gone": Source("gone.jsonl", share=0.0)}
    )
    assert (
        with_mixture(sources.plain, missing, text_classification, HEAD, SPEC, False)
        == sources.plain
    )


@trying(max_examples=25, deadline=None)
@given(
    general=st.tuples(st.floats(0, 2), st.floats(0, 2)),
    poems=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_larger_share_holds_the_smaller_ones_examples_and_nothing_held_out_moves(
    sources: Sources, general: tuple[float, float], poems: tuple[float, float]
) -> None:
    small, large = (
        sources.mixed(min(general), min(poems)),
        sources.mixed(max(general), max(poems)),
    )
    assert set(texts(small)) <= set(texts(large))
    assert len(texts(large)) == len(set(texts(large)))
    for split in SPLITS[1:]:
        assert (large / f"{split}.jsonl").read_bytes() == (
            sources.plain / f"{split}.jsonl"
        ).read_bytes()
        assert not set(texts(large)) & set(texts(large, split))


def test_no_more_than_there_is_and_that_is_reported(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sources.mixed(5.0)
    assert {text for text in texts(folder) if text.startswith("general")} == {
        f"general {at}" for at in range(50)
    }
    assert (
        describe(manifest(folder))["general"]
        == "50 of 50 usable examples; share 5 asks for 320"
    )
    assert describe(manifest(sources.plain)) == {}
    monkeypatch.setattr("miaobi.core.language.language", lambda: "zh")
    assert "需要 320 条" in describe(manifest(folder))["general"]


def test_held_out_and_trained_examples_are_left_out_and_counted(
    sources: Sources, tmp_path: Path
) -> None:
    held_out, own = (
        [*texts(sources.plain, "validation"), *texts(sources.plain, "test")],
        texts(sources.plain),
    )
    rows = [
        {"text": text.upper().replace(" ", "  "), "label": "good"}
        for text in held_out[:5]
    ] + [{"text": text, "label": "bad"} for text in own[:3]]
    rows += [
        {"text": "fresh", "label": "good"},
        {"text": "fresh", "label": "good"},
        {"text": "nobody knows", "label": "lukewarm"},
    ]
    leaky = tmp_path / "leaky.jsonl"
    leaky.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = Config(
        path=str(sources.path),
        mix={"leaky": Source(str(leaky), share=1.0)},
        strict=False,
    )
    folder = with_mixture(sources.plain, config, text_classification, HEAD, SPEC, False)
    facts = mix_of(folder)["leaky"]
    assert {
        key: facts[key]
        for key in ("read", "held_out", "repeated", "duplicates", "unusable", "added")
    } == {
        "read": 11,
        "held_out": 5,
        "repeated": 3,
        "duplicates": 1,
        "unusable": 1,
        "added": 1,
    }
    assert texts(folder) == [*own, "fresh"]
    assert describe(manifest(folder))["leaky"].endswith(
        "left out: 5 held out, 3 trained on already, 1 duplicates, 1 unusable"
    )
    strict = Config(
        path=str(sources.path), mix={"leaky": Source(str(leaky), share=0.01)}
    )
    with pytest.raises(
        BadInput,
        match=r"data\.mix\.leaky: .*leaky\.jsonl:11: label 'lukewarm' does not occur",
    ) as caught:
        with_mixture(sources.plain, strict, text_classification, HEAD, SPEC, False)
    assert "--data.strict false" in caught.value.remedy


def test_questions_about_a_held_out_text_are_left_out(tmp_path: Path) -> None:
    def rows(subject: str) -> str:
        return "".join(
            json.dumps(
                {
                    "question": f"{subject} {at}?",
                    "context": f"Text {at} is long.",
                    "answer": "long",
                }
            )
            + "\n"
            for at in range(20)
        )

    (tmp_path / "own.jsonl").write_text(rows("How"))
    (tmp_path / "further.jsonl").write_text(rows("What"))
    head = extractive_questions.Config()
    plain = prepare(
        Config(path=str(tmp_path / "own.jsonl")), extractive_questions, head, False
    )
    config = Config(mix={"further": Source(str(tmp_path / "further.jsonl"), share=9.0)})
    mixed = mix_of(with_mixture(plain, config, extractive_questions, head, {}, False))[
        "further"
    ]
    assert (mixed["held_out"], mixed["added"]) == (4, 16)


def test_pictures_that_a_person_would_call_held_out_ones_are_left_out(
    tmp_path: Path,
) -> None:
    head = image_classification.Config()
    own = class_folders(tmp_path / "own", 8)
    plain = prepare(
        Config(path=str(own), validation=0.2, test=0.2),
        image_classification,
        head,
        False,
    )
    held_out = [
        example.columns
        for split in SPLITS[1:]
        for example in read_split(plain, split, image_classification)
    ]
    further = tmp_path / "further"
    for at, columns in enumerate(held_out):
        (further / columns["label"]).mkdir(parents=True, exist_ok=True)
        Image.open(columns["image"]).save(
            further / columns["label"] / f"again{at}.jpg", quality=95
        )
    for colour in ("red", "blue"):
        (further / colour).mkdir(exist_ok=True)
        Image.effect_noise((32, 32), 90).convert("RGB").save(
            further / colour / "new.png"
        )
    spec = image_classification.survey(
        read_split(plain, "train", image_classification), head
    )
    folder = with_mixture(
        plain,
        Config(mix={"further": Source(str(further), share=9.0)}),
        image_classification,
        head,
        spec,
        False,
    )
    assert mix_of(folder)["further"]["held_out"] == len(held_out)
    assert [
        Path(example.columns["image"]).name
        for example in read_split(folder, "train", image_classification)
    ][-2:] == ["new.png", "new.png"]
    assert mix_of(folder)["further"]["added"] == 2


def test_sources_have_formats_and_columns_of_their_own(
    sources: Sources, tmp_path: Path
) -> None:
    table = tmp_path / "stars.csv"
    table.write_text("review,stars\nfine,good\npoor,bad\n")
    further = Source(
        str(table), share=1.0, columns={"text": "review", "label": "stars"}
    )
    folder = with_mixture(
        sources.plain,
        Config(mix={"stars": further}),
        text_classification,
        HEAD,
        SPEC,
        False,
    )
    assert set(texts(folder)) - set(texts(sources.plain)) == {"fine", "poor"}
    chats = tmp_path / "chats.jsonl"
    chats.write_text(
        "".join(
            json.dumps({"prompt": f"Hi {at}", "completion": "Hello."}) + "\n"
            for at in range(20)
        )
    )
    plain = prepare(Config(path=str(chats)), chat, chat.Config(), False)
    folder = with_mixture(
        plain,
        Config(mix={"talk": Source(pack="chatterbot-corpus", share=0.5)}, strict=False),
        chat,
        chat.Config(),
        {},
        False,
    )
    assert mix_of(folder)["talk"]["added"] == 8


def test_fewer_examples_take_fewer_of_each_source(sources: Sources) -> None:
    whole = sources.mixed(0.5, 0.25)
    part = subset(whole, text_classification, 40)
    assert texts(part)[:32] == texts(subset(sources.plain, text_classification, 40))
    assert mix_of(part)["general"]["added"] == 16
    assert set(texts(part)) < set(texts(whole))
    for split in SPLITS[1:]:
        assert (part / f"{split}.jsonl").read_bytes() == (
            whole / f"{split}.jsonl"
        ).read_bytes()


def test_old_examples_are_replayed_as_before_and_their_held_out_ones_are_guarded(
    sources: Sources, tmp_path: Path
) -> None:
    new = prepare(
        Config(path=str(written(tmp_path / "new.jsonl", "new", range(30)))),
        text_classification,
        HEAD,
        False,
        sources.plain.parent,
    )
    both = with_replay(new, sources.mixed(0.25), text_classification, 0.5)
    guarded = written(tmp_path / "old.jsonl", "own", range(80))
    folder = with_mixture(
        both,
        Config(mix={"old": Source(str(guarded), share=0.5)}),
        text_classification,
        HEAD,
        SPEC,
        False,
    )
    assert texts(folder)[:36] == texts(both)  # 24 new ones, 12 replayed
    assert mix_of(folder)["old"]["held_out"] == 16
    assert (
        mix_of(folder)["old"]["added"] == 12
    )  # by the new ones, not by those that are replayed
    assert manifest(folder)["replayed"] == 12


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (Source(), BadInput, "data.mix.further has neither path nor pack"),
        (Source("a", "b", 1.0), BadInput, "data.mix.further has both"),
        (
            Source("gone.jsonl", share=1.0),
            NotFound,
            "data.mix.further.path is 'gone.jsonl'",
        ),
    ],
)
def test_a_source_that_cannot_be_read_is_named(
    sources: Sources, source: Source, error: type[MiaobiError], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        with_mixture(
            sources.plain,
            Config(mix={"further": source}),
            text_classification,
            HEAD,
            SPEC,
            False,
        )
    assert "data.mix.further" in caught.value.remedy


def test_the_data_itself_is_prepared_once_whatever_is_mixed_in(
    sources: Sources,
) -> None:
    other = Config(
        path=str(sources.path), mix={"general": Source(str(sources.general), share=1.0)}
    )
    assert (
        prepare(other, text_classification, HEAD, False, sources.plain.parent)
        == sources.plain
    )
    assert manifest(sources.plain)["config"]["mix"] == {}
    assert (
        len(
            {
                content(example.columns)
                for example in read_split(sources.plain, "train", text_classification)
            }
        )
        == 64
    )
