"""Evaluate a text model: open it, find its held-out and training text, measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from miaobi.core.errors import BadInput, MiaobiError
from miaobi.core.files import home, write_beside
from miaobi.core.language import say
from miaobi.engines import engines
from miaobi.evaluate.evaluation import ModelReport, Options, Progress, Results, measure
from miaobi.evaluate.text.subject import Completer, TextSubject, choose_documents

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.data.text.tokenizer import Tokenizer
    from miaobi.data.text.tokens import Tokens
    from miaobi.engines.model import Model
    from miaobi.nn.language import SentenceLatents

SAMPLES = 20
"""Texts to generate, where --samples sets no number."""
LIMIT = 200
"""Held-out documents, where --limit sets no number."""
MAX_CONTEXT = 1024
"""Tokens of context, however many the model can hold."""
MIN_NEW_TOKENS, MAX_NEW_TOKENS = 8, 96
"""Length of a sample."""
LINE = 64
"""Tokens of a line that is filled in."""
QUOTES = 12
"""Samples on the page."""


LEAD = (
    "How well it predicts, how varied it writes, how much it copies; "
    "every score with its sample size and interval.",
    "预测能力、多样性与复制程度；每个数字都附样本量与置信区间。",
)


def evaluates(models: Sequence[Weights]) -> bool:
    return all(weights.modality == "text" for weights in models)


def evaluate_model(
    name: str,
    weights: Weights,
    options: Options,
    reference: list[str] | None,
    progress: Progress,
) -> ModelReport:
    """Open, evaluate and close one model; see Evaluator."""
    from miaobi.engines.load import load
    from miaobi.train.tracking import read_log

    if options.extractor:
        raise BadInput(
            say(
                f"{name} writes; an extractor is for pictures.",
                f"{name} 生成文本；特征提取器用于图片。",
            ),
            say("Leave --extractor out.", "请去掉 --extractor。"),
        )
    began = time.monotonic()
    engine = options.engine
    if engine == "auto":
        engine = _scoring_engine(weights)
    with load(weights, engine=engine) as opened:
        own = _own_data(weights)
        documents = _held_out(own, options) if reference is None else reference
        subject = _subject(opened, weights, own, documents, options)
        scores, missing = measure(subject, progress)
        is_bundle = weights.format == "bundle"
        results = Results(
            model=weights.label,
            engine=opened.engine_name,
            scores=tuple(scores),
            missing=tuple(missing),
            samples=tuple(subject.samples),
            documents=len(subject.held_out),
            data=_source(own, options),
            seconds=round(time.monotonic() - began, 1),
            curve=tuple(read_log(weights.path)) if is_bundle else (),
        )
    return _report(results, documents)


def _report(results: Results, documents: list[str]) -> ModelReport:
    from miaobi.evaluate.page import Quote, quotes

    label = results.model
    samples = quotes(
        Quote(sample.text, sample.prompt) for sample in results.samples[:QUOTES]
    )
    settings = {
        say("Engine", "引擎"): results.engine,
        say("Held-out text", "留出文本"): results.data,
        say("Documents", "文档数"): results.documents,
        say("Samples", "样本数"): len(results.samples),
        say("Sampling", "采样"): "temperature 0.8, top_p 0.95",
    }
    next_step = (
        say(
            "Export it to llama.cpp, LM Studio or Ollama:",
            "导出到 llama.cpp、LM Studio 或 Ollama：",
        ),
        f"miaobi export {label} --to gguf",
    )
    heading = say(f"Samples of {label}", f"{label} 的样本")
    return ModelReport(
        results, ((heading, (samples,)),), settings, documents, next_step
    )


def _held_out(own: Tokens | None, options: Options) -> list[str]:
    """Return held-out documents of --data, or of the model's own data, or none."""
    if options.data is not None:
        documents = _documents(options.data)
    elif own is not None:
        documents = own.documents("test" if own.count("test") else "validation")
    else:
        return []
    return choose_documents(documents, options.limit or LIMIT, options.seed)


def _source(own: Tokens | None, options: Options) -> str:
    """Return in words where the held-out text is from."""
    if options.data is not None:
        return str(options.data)
    if own is not None:
        return say("its own held-out text", "自身的留出文本")
    return say("none", "无")


def _subject(
    opened: Model,
    weights: Weights,
    own: Tokens | None,
    documents: list[str],
    options: Options,
) -> TextSubject:
    tokenizer = _tokenizer(weights)
    start = _end_token(tokenizer)
    longest = max(MIN_NEW_TOKENS, min(MAX_NEW_TOKENS, opened.context_length // 2))
    return TextSubject(
        name=opened.name,
        generate=lambda prompt, **controls: opened.generate(
            opened.bos_token + prompt or start, raw=True, **controls
        ),
        score=opened.score if opened.engine.abilities.score else None,
        encode=_encoder(tokenizer),
        net=_sentence_latents(weights),
        completer=_completer(opened, weights, own, tokenizer),
        tokenizer=tokenizer.name if tokenizer else "",
        start=start,
        context_length=min(opened.context_length, MAX_CONTEXT),
        held_out=documents,
        training=_training_text(own) if own else None,
        count=options.samples or SAMPLES,
        max_new_tokens=longest,
        seed=options.seed,
    )


def _sentence_latents(weights: Weights) -> SentenceLatents | None:
    """Return the network of a model of sentences; None for other models."""
    from miaobi.families import families
    from miaobi.nn.language import SentenceLatents

    if weights.format != "bundle" or weights.family not in families:
        return None
    family = families.get(weights.family)
    if family.DATA != "sentences":
        return None
    net = family.load(weights.path)
    return net if isinstance(net, SentenceLatents) else None


def _completer(
    opened: Model, weights: Weights, own: Tokens | None, tokenizer: Tokenizer | None
) -> Completer | None:
    """Return a model of Python that fills in; None for other models."""
    from miaobi.verbs.code import fitted

    recipe = weights.manifest.recipe if weights.manifest else {}
    is_python = recipe.get("data", {}).get("source") == "python"
    fills = opened.engine.abilities.serves({"suffix": ""})
    if own is None or tokenizer is None or not (is_python and fills):
        return None

    def fill(before: str, behind: str) -> str:
        prompt, suffix = fitted(opened, before, behind, LINE)
        [answer] = opened.generate(
            prompt, suffix=suffix, max_new_tokens=LINE, temperature=0, stop=["\n"]
        )
        return str(answer)

    return Completer(
        fill,
        np.asarray(own.stream("train")),
        lambda text: tokenizer.encode([text]),
        tokenizer.decode,
    )


def _scoring_engine(weights: Weights) -> str:
    """Return an installed engine that gives log-probabilities of texts, else "auto"."""
    for name in engines.names():
        module = engines.get(name)
        scores = weights.format in module.FORMATS and module.ABILITIES.score
        if scores and not module.installed() and module.reads(weights):
            return name
    return "auto"


def _own_data(weights: Weights) -> Tokens | None:
    """Return the prepared data that a bundle was trained on, where it is still here."""
    from miaobi.data.text.config import MANIFEST
    from miaobi.data.text.tokens import Tokens

    manifest = weights.manifest
    if manifest is None:
        return None
    folder = Path(str(manifest.data.get("folder", "")))
    if manifest.modality != "text" or not (folder / MANIFEST).exists():
        return None
    data = manifest.recipe.get("data", {})
    return Tokens(folder, int(data.get("context_length", 256)))


def _training_text(own: Tokens) -> Path:
    """Return the training split as one UTF-8 file, written once for each data set."""
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
    """Return the model's tokenizer; None for a kind that is not supported here.

    Without it the report says that likelihood cannot be measured.
    """
    from miaobi.data.text.tokenizer import load

    if weights.format == "url":
        return None
    try:
        return load(weights.path)
    except MiaobiError:
        return None


def _end_token(tokenizer: Tokenizer | None) -> str:
    """Return the token between documents as text; empty without a tokenizer."""
    if tokenizer is None:
        return ""
    return str(tokenizer.backend.id_to_token(tokenizer.end_id))


def _encoder(
    tokenizer: Tokenizer | None,
) -> Callable[[str], list[tuple[int, int, int]]] | None:
    """Return what encodes a text as (token, first character, character after the last)."""
    if tokenizer is None:
        return None

    def encode(text: str) -> list[tuple[int, int, int]]:
        tokenizer.backend.encode_special_tokens = False
        encoding = tokenizer.backend.encode(text, add_special_tokens=False)
        return [
            (token, first, last)
            for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    return encode
