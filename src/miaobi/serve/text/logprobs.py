"""Log-probabilities of tokens, as chats and responses give them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from miaobi.core.artifacts import TokenLogprob


def logprobs_of(logprobs: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Return log-probabilities in the shape of chats: each token with its bytes."""
    return {
        "content": [
            {
                **_entry(item),
                "top_logprobs": [_entry(top) for top in item.top_logprobs],
            }
            for item in logprobs
        ],
        "refusal": None,
    }


def _entry(item: TokenLogprob) -> dict[str, Any]:
    return {
        "token": item.token,
        "logprob": max(item.logprob, -9999.0),
        "bytes": list(item.bytes),
    }
