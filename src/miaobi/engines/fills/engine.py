"""What the fills engine does: find the masks of a text, rank what may stand for them.

An answer is the ranking as text, a line for each filling with its probability:

    白日依山尽  62.1 %
    白日依山中  8.4 %
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from math import exp

from miaobi.core.engine import Abilities, Chunk, Weights, accepted
from miaobi.core.errors import BadInput, ContextExceeded
from miaobi.core.language import say
from miaobi.core.requests import Request, TextRequest
from miaobi.data.text.masked import MASK
from miaobi.engines.text.tokenizer import Tokenizer
from miaobi.engines.worker import Send, Worker
from miaobi.families import bert
from miaobi.nn import fills

RANKED = 5
"""Fillings that are shown, unless top_k says how many."""

LINE_END = "⏎"
"""Shown for a line end inside a filling, since each filling has a line."""


class FillsEngine:
    """A `bert` on the CPU."""

    takes = TextRequest
    chats = False
    bos_token = ""

    def __init__(self, weights: Weights, abilities: Abilities) -> None:
        self.name = weights.name
        self.abilities = abilities
        self._net = bert.load(weights.path)
        self._spec = self._net.spec
        self.context_length = self._spec.context_length
        self._tokenizer = Tokenizer.from_file(weights.path / "tokenizer.json")
        self._worker = Worker("fills")

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        request = accepted(request, TextRequest, self.abilities, "fills")
        ids = self._ids(request)
        async with aclosing(
            self._worker.stream(lambda send: self._answer(request, ids, send))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    def _ids(self, request: TextRequest) -> list[int]:
        """The tokens of the text. Raises BadInput without a mask, ContextExceeded."""
        if request.prompt_ids is not None:
            ids = list(request.prompt_ids)
        else:
            ids = self._tokenizer.encode(request.prompt or "", special=True)
        if self._spec.mask_id not in ids:
            raise BadInput(
                say(
                    f"There is no {MASK} in the text.",
                    f"文本中没有 {MASK}。",
                ),
                say(
                    f"Write {MASK} where {self.name} is to find what is hidden.",
                    f"请在需要 {self.name} 填写的位置写上 {MASK}。",
                ),
                field="prompt",
            )
        if len(ids) > self.context_length:
            raise ContextExceeded(
                say(
                    f"The text has {len(ids)} tokens; {self.name} reads {self.context_length}.",
                    f"文本共 {len(ids)} 个词元；{self.name} 最多读取 {self.context_length} 个。",
                ),
                say("Shorten it around the mask.", "请缩短掩码前后的文字。"),
                field="prompt",
            )
        return ids

    def _answer(self, request: TextRequest, ids: list[int], send: Send) -> None:
        send(Chunk(prompt_tokens=len(ids)))
        found = fills.ranked(
            self._net,
            ids,
            self._spec.mask_id,
            request.top_k or RANKED,
            bert.banned(self._spec),
        )
        lines = [
            f"{self._text(filling.ids)}  {100 * exp(filling.log_probability):.1f} %"
            for filling in found
        ]
        send(Chunk(text="\n".join(lines), finish="stop"))

    def _text(self, ids: list[int]) -> str:
        """A filled text in one line."""
        edges = (self._spec.cls_id, self._spec.sep_id)
        text = self._tokenizer.decode([token for token in ids if token not in edges])
        return text.replace("\n", LINE_END)

    def close(self) -> None:
        self._worker.close()
