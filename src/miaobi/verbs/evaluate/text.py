"""Judging a model that writes: its subject, made of what is known of the model and its data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core import bundle
from miaobi.core.errors import BadInput
from miaobi.core.files import home, write_beside
from miaobi.core.language import say
from miaobi.engines import engines
from miaobi.evaluate.evaluation import ModelReport, Options, Progress, Results, measure
from miaobi.evaluate.text.subject import TextSubject, choose_documents

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.data.text.tokenizer import Tokenizer
    from miaobi.data.text.tokens import Tokens
    from miaobi.engines.load import Model

SAMPLES, LIMIT = 20, 200


def judge(
    name: str,
    weights: Weights,
    options: Options,
    known: list[str] | None,
    progress: Progress,
) -> ModelReport:
    """Open, measure and close one model. known: held-out text that another model was judged by."""
    from miaobi.engines.load import load
    from miaobi.evaluate.page import Quote, quotes
    from miaobi.train.tracking import read_log

    if options.extractor:
        raise BadInput(
            say(
                f"{name} writes; an extractor is for pictures.",
                f"{name} 生成文本；特征提取器用于图片。",
            ),
            say("Leave --extractor out.", "请去掉 --extractor。"),
        )
    began, limit = time.monotonic(), options.limit or LIMIT
    if known is None and options.data is not None:
        known = choose_documents(_documents(options.data), limit, options.seed)
    with load(
        name, engine=_telling(weights) if options.engine == "auto" else options.engine
    ) as opened:
        own = _own_data(weights)
        if known is None and own is not None:
            split = "test" if own.count("test") else "validation"
            known = choose_documents(own.documents(split), limit, options.seed)
        subject = _subject(
            opened,
            weights,
            own,
            known or [],
            options.samples or SAMPLES,
            options.seed,
        )
        scores, missing = measure(subject, progress)
        place = (
            str(options.data)
            if options.data
            else say("its own held-out text", "自身的留出文本")
            if own
            else say("none", "无")
        )
        label = weights.label
        curve = tuple(read_log(weights.path)) if weights.format == "bundle" else ()
        judged = Results(
            label,
            opened.engine_name,
            tuple(scores),
            tuple(missing),
            tuple(subject.samples),
            len(subject.held_out),
            place,
            round(time.monotonic() - began, 1),
            curve,
        )
    shown = (
        say(f"Samples of {label}", f"{label} 的样本"),
        (quotes(Quote(one.text, one.prompt) for one in judged.samples[:12]),),
    )
    settings = {
        say("Engine", "引擎"): judged.engine,
        say("Held-out text", "留出文本"): judged.data,
        say("Documents", "文档数"): judged.documents,
        say("Samples", "样本数"): len(judged.samples),
        say("Sampling", "采样"): "temperature 0.8, top_p 0.95",
    }
    onward = (
        say(
            "Take it to llama.cpp, LM Studio or Ollama:",
            "导出到 llama.cpp、LM Studio 或 Ollama：",
        ),
        f"miaobi export {label} --to gguf",
    )
    return ModelReport(judged, (shown,), settings, list(subject.held_out), onward)


def _subject(
    opened: Model,
    weights: Weights,
    own: Tokens | None,
    held_out: list[str],
    samples: int,
    seed: int,
) -> TextSubject:
    words = _tokenizer(weights)
    score = opened.score if opened.engine.abilities.score else None
    return TextSubject(
        name=opened.name,
        generate=lambda prompt, **controls: opened.generate(
            opened.bos_token + prompt or _start(words), raw=True, **controls
        ),
        score=score,
        encode=_encoder(words),
        tokenizer=words.name if words else "",
        start=_start(words),
        context_length=min(opened.context_length, 1024),
        held_out=held_out,
        training=_training_text(own) if own else None,
        count=samples,
        max_new_tokens=max(8, min(96, opened.context_length // 2)),
        seed=seed,
    )


def _telling(weights: Weights) -> str:
    """An engine that reads these weights and tells how likely a text is; otherwise the
    usual choice.
    """
    for name in engines.names():
        module = engines.get(name)
        if (
            weights.format in module.FORMATS
            and module.ABILITIES.score
            and not module.installed()
            and module.reads(weights)
        ):
            return name
    return "auto"


def _own_data(weights: Weights) -> Tokens | None:
    """The prepared data that a bundle was trained on, where it is still here."""
    from miaobi.data.text.config import MANIFEST
    from miaobi.data.text.tokens import Tokens

    if weights.format != "bundle":
        return None
    manifest = bundle.read(weights.path)
    folder = Path(str(manifest.data.get("folder", "")))
    if manifest.modality != "text" or not (folder / MANIFEST).exists():
        return None
    return Tokens(
        folder, int(manifest.recipe.get("data", {}).get("context_length", 256))
    )


def _training_text(own: Tokens) -> Path:
    """The training split as one UTF-8 file, written once for each data set."""
    target = home() / "evaluate" / f"{own.fingerprint}.txt"
    if not target.exists():
        with write_beside(target) as draft, draft.open("w", encoding="utf-8") as file:
            for document in own.documents("train"):
                file.write(document + "\n")
    return target


def _documents(data: Path) -> Iterator[str]:
    from miaobi.data.text.files import read

    return (
        document.training_text()
        for document in read(data, strict=False, report=lambda problem: None)
    )


def _tokenizer(weights: Weights) -> Tokenizer | None:
    from miaobi.core.errors import MiaobiError
    from miaobi.data.text.tokenizer import load

    if weights.format == "url":
        return None
    try:
        return load(weights.path)
    except MiaobiError:
        return None  # a kind of tokenizer that is not known here: the likelihood is then reported as not measurable


def _start(words: Tokenizer | None) -> str:
    return str(words.backend.id_to_token(words.end_id)) if words else ""


def _encoder(
    words: Tokenizer | None,
) -> Callable[[str], list[tuple[int, int, int]]] | None:
    if words is None:
        return None

    def encode(text: str) -> list[tuple[int, int, int]]:
        words.backend.encode_special_tokens = False
        encoding = words.backend.encode(text, add_special_tokens=False)
        return [
            (token, first, last)
            for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    return encode
