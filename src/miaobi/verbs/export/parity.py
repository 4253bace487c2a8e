"""Whether an exported GGUF answers as the model does, and what its number format costs.

The file is opened in llama.cpp and continues a few prompts greedily; each token and its
log-probability is compared with the native engine's. Where the format changes the
weights (K-quants), the native engine reads them back from the file, and the perplexity
of both says what was lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.artifacts import Text
from miaobi.core.errors import Damaged, MissingPart
from miaobi.core.language import say
from miaobi.models.convert.quantise import K_QUANTS, Dtype

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.engines.model import Model

TOLERANCE: dict[Dtype, float] = {
    "f32": 0.01,
    "f16": 0.02,
    "q8_0": 0.3,
    "q5_k_m": 0.3,
    "q4_k_m": 0.3,
}
"""Largest difference of a log-probability, in nats, that the number format (and
llama.cpp's float16 cache) explains. Where weights are packed, llama.cpp rounds what they
are multiplied with to 8 bits as well.
"""
TIE = 0.3
"""Under packed weights, tokens whose log-probabilities differ by less than this may swap."""
RANKED = 5
"""Most probable tokens at each position, among which such a token is looked for."""
PROMPTS = ("The ", "春", "\n", "A long time ago", "我们")
COMPARED_TOKENS = 16
"""After each prompt, at most."""
BYTES_PER_CHARACTER = 4
"""Of UTF-8, at most; a byte-level vocabulary may spend a token on each."""


@dataclass(frozen=True)
class Parity:
    """How the exported file compares with the native engine on the same prompts."""

    tokens: int
    """Compared, over all prompts."""
    largest: float
    """Largest |log-probability here - there|, in nats."""
    tolerance: float

    def __str__(self) -> str:
        return say(
            f"{self.tokens} greedy tokens agree with the native engine; log-probabilities within {self.largest:.1e} "
            f"nats (allowed {self.tolerance:g})",
            f"{self.tokens} 个贪心词元与原生引擎一致；对数概率相差不超过 {self.largest:.1e}（允许 {self.tolerance:g}）",
        )


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean loss per token, on the same text: of the model and of its file."""

    original: float
    exported: float
    tokens: int

    def __str__(self) -> str:
        change = 100 * (self.exported / self.original - 1)
        return say(
            f"perplexity {self.exported:.2f} beside the original's {self.original:.2f} "
            f"({change:+.1f} %; {self.tokens:,} tokens)",
            f"困惑度 {self.exported:.2f}，原模型为 {self.original:.2f}（{change:+.1f}%；{self.tokens:,} 个词元）",
        )


@dataclass(frozen=True)
class Measured:
    """What an engine makes of the prompts, and what it thinks of a text."""

    answers: Sequence[Text]
    nats: float
    """Σ -ln p over the text; 0 where it was not scored."""
    tokens: int
    """Scored."""

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats / self.tokens)


def measure(
    weights: Weights, exported: Path, dtype: Dtype, text: str
) -> tuple[Parity | None, Perplexity]:
    """Compare an exported GGUF with its model.

    Returns how its greedy answers in llama.cpp agree with the native engine's (None
    where llama.cpp is not installed), and both perplexities, by the native engine.
    Raises Damaged where the answers differ more than the number format explains.

    Args:
        weights: the model.
        exported: the GGUF.
        dtype: number format of its matrices.
        text: what is scored; each line by itself.
    """
    original = _measured(weights, "native", text)
    read_back = _measured(gguf_weights(exported), "native", text)
    perplexity = Perplexity(original.perplexity, read_back.perplexity, original.tokens)
    try:
        theirs = _measured(gguf_weights(exported), "llamacpp")
    except MissingPart:
        return None, perplexity
    ours = read_back if dtype in K_QUANTS else original
    return parity_of(weights, ours.answers, theirs.answers, dtype), perplexity


def _measured(weights: Weights, engine: str, text: str = "") -> Measured:
    from miaobi.engines.load import open_engine
    from miaobi.engines.model import Model

    nats, tokens = 0.0, 0
    with Model(weights, engine, open_engine(weights, engine, 1, {})) as model:
        length = min(COMPARED_TOKENS, model.context_length // 2)
        answers = [_greedy(model, prompt, length) for prompt in PROMPTS]
        for piece in _pieces(text, model.context_length // BYTES_PER_CHARACTER):
            logprobs = model.score(piece)
            nats -= sum(token.logprob for token in logprobs)
            tokens += len(logprobs)
    return Measured(answers, nats, tokens)


def parity_of(
    weights: Weights, ours: Sequence[Text], theirs: Sequence[Text], dtype: Dtype
) -> Parity:
    """Return how two engines' answers to the prompts agree. Raises Damaged."""
    tolerance = TOLERANCE[dtype]
    is_packed = dtype == "q8_0" or dtype in K_QUANTS
    tie = TIE if is_packed else tolerance
    count, largest = 0, 0.0
    for prompt, mine, other in zip(PROMPTS, ours, theirs, strict=True):
        tokens, difference = agreement(mine, other, tie)
        if tokens < 0 or difference > tolerance:
            raise _different(weights, prompt, mine, other, difference)
        count += tokens
        largest = max(largest, difference)
    return Parity(count, largest, tolerance)


def gguf_weights(path: Path) -> Weights:
    """Return the weights of a GGUF file, whatever its name ends in."""
    from miaobi.models.weights import of_path

    return of_path(path)


def greedy_answers(weights: Weights, engine: str) -> Sequence[Text]:
    """Return what a model answers to the prompts."""
    return _measured(weights, engine).answers


def _greedy(model: Model, prompt: str, length: int) -> Text:
    texts: list[Text] = model.generate(
        prompt,
        raw=True,
        temperature=0.0,
        max_new_tokens=length,
        logprobs=RANKED,
        seed=0,
    )
    return texts[0]


def agreement(ours: Text, theirs: Text, tie: float) -> tuple[int, float]:
    """Return (tokens that agree, largest difference of their log-probabilities).

    The count is -1 when the answers differ. They may differ where a token of theirs is
    nearly as probable here: from there on they answer different contexts.
    """
    largest = 0.0
    pairs = zip(ours.logprobs, theirs.logprobs, strict=False)
    for position, (mine, other) in enumerate(pairs):
        if mine.token == other.token:
            largest = max(largest, abs(mine.logprob - other.logprob))
            continue
        if "\ufffd" in mine.token or not mine.token:
            # llama.cpp reports nothing of tokens that are parts of a character, and of
            # those that no text belongs to (rows that pad the embeddings).
            return position, largest
        candidates = {item.token: item.logprob for item in mine.top_logprobs}
        other_logprob = candidates.get(other.token)
        is_tie = other_logprob is not None and mine.logprob - other_logprob <= tie
        return (position if is_tie else -1), largest
    return min(len(ours.logprobs), len(theirs.logprobs)), largest


def _different(
    weights: Weights, prompt: str, ours: Text, theirs: Text, difference: float
) -> Damaged:
    return Damaged(
        say(
            f"The GGUF of {weights.label} does not answer as the model does: after {prompt!r}, "
            f"{theirs.text!r} instead of {ours.text!r} (difference {difference:.3g} nats).",
            f"{weights.label} 的 GGUF 与原模型的回答不同：在 {prompt!r} 之后得到 "
            f"{theirs.text!r}，而原模型为 {ours.text!r}（相差 {difference:.3g}）。",
        ),
        say(
            "No file was written. Export with --to transformers, and report this as a defect.",
            "没有写入文件。请用 --to transformers 导出，并将此作为缺陷报告。",
        ),
    )


def passage() -> str:
    """Return the text that perplexities are measured on: English and Chinese, public domain."""
    folder = files("miaobi.verbs.export")
    return (folder / "passage.txt").read_text(encoding="utf-8")


def _pieces(text: str, longest: int) -> Iterator[str]:
    """Yield the lines of a text, those that are longer than `longest` in pieces."""
    for sentence in text.splitlines():
        for begin in range(0, len(sentence), longest):
            yield sentence[begin : begin + longest]
