"""Requests for vectors of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from miaobi.core.artifacts import Embedding
from miaobi.core.requests.base import Request


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest(Request):
    """Return a vector for each of `texts`."""

    makes: ClassVar[str] = "embedding"
    client_methods = "embeddings.create"
    answer = Embedding
    example = "--texts ..."
    asks = frozenset({"texts"})

    texts: tuple[str, ...]
    """What to make vectors of."""
    input_type: Literal["", "query", "passage"] = ""
    """What the texts are, for models that were trained with words before them ("query: "
    and "passage: "): what is searched for, or what is found. "" is passage; a text that
    begins with such words stays as it is.
    """
    too_long: Literal["error", "truncate", "split"] = "error"
    """What becomes of a text that is longer than the model holds: it is refused, cut at
    its end, or cut into pieces whose vectors are averaged by their lengths.
    """

    @classmethod
    def of(cls, ask: Any, model: Any, *, raw: bool = False, **controls: Any) -> Self:
        """Return the request for one text, or for several."""
        if raw or ask is None or isinstance(ask, Request):
            raise cls.wrong_ask(ask, model.name)
        texts = (ask,) if isinstance(ask, str) else tuple(str(text) for text in ask)
        return cls(texts=texts, **controls)
