"""What the tasks over text share: a pretrained model with a new head, texts as token
ids, and batches without waste.

Rows of a batch are brought to one length with padding, which most of the work then goes
into. `grouped` splits a batch into a few groups of similar length; each is run by
itself, cut to its own longest row. Losses are sums, so gradients stay those of the
whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.models.base import Base
from miaobi.nn.objective import Batch
from miaobi.tune.learner import Piece

HEADS = ("score", "classifier", "qa_outputs")
"""What Transformers calls its heads."""
CALL = 96
"""What one more call of the network costs, in tokens."""


def with_head(
    base: Base, auto: Any, dropout: float | None = None, **settings: Any
) -> nn.Module:
    """The base's model in one of Transformers' Auto classes, with a new head where the
    weights have none.

    Raises Unsupported for a base that has no such head.
    """
    from transformers import AutoConfig

    if not base.config.get("model_type"):
        raise Unsupported(
            say(
                f"{base.name} is not a text model that Transformers knows.",
                f"{base.name} 不是 Transformers 支持的文本模型。",
            ),
            say(
                "Choose an encoder (BERT, use-multilingual ...) or a causal "
                "language model (smollm2, one trained by `miaobi train`).",
                "请选用编码器（BERT、use-multilingual 等）或因果语言模型（smollm2，或由 `miaobi train` 训练的模型）。",
            ),
        )
    tokenizer = base.tokenizer
    config = AutoConfig.from_pretrained(base.folder, local_files_only=True)
    settings["pad_token_id"] = padding_of(tokenizer)
    for name, value in settings.items():
        setattr(config, name, value)
    try:
        net = _whole(base, auto, config)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise Unsupported(
            say(
                f"{base.name} is a {config.model_type} model, for which Transformers has no {auto.__name__}.",
                f"{base.name} 是 {config.model_type} 模型，Transformers 没有与之对应的 {auto.__name__}。",
            ),
            say(
                "Choose an encoder such as BERT, or a causal language model such as smollm2.",
                "请选用 BERT 之类的编码器，或 smollm2 之类的因果语言模型。",
            ),
        ) from None
    _with_dropout(net, dropout)
    return net


def _whole(base: Base, auto: Any, config: Any) -> nn.Module:
    """The model with the base's weights in it. Transformers calls the body of some
    models otherwise under another head (`transformer` in LlamaForQuestionAnswering,
    `model` everywhere else), and then leaves it random without a word: such a body is
    put in by hand.
    """
    from transformers import AutoModel

    loaded: Any = base.model(auto, config=config, output_loading_info=True)
    net, told = loaded
    prefix = f"{net.base_model_prefix}."
    body = {name for name in net.state_dict() if name.startswith(prefix)}
    if body and body <= set(told["missing_keys"]):
        setattr(net, net.base_model_prefix, base.model(AutoModel, config=config))
    whole: nn.Module = net
    return whole


def _with_dropout(net: nn.Module, dropout: float | None) -> None:
    """Of what the head sees. Heads of causal models have none of their own: it is put
    before them.
    """
    if dropout is None:
        return
    children = dict(net.named_children())
    own = [child for child in children.values() if isinstance(child, nn.Dropout)]
    for child in own:
        child.p = dropout
    for name in HEADS if dropout and not own else ():
        if name in children:
            children[name].register_forward_pre_hook(
                lambda head, inputs: (
                    F.dropout(inputs[0], dropout, head.training),
                    *inputs[1:],
                )
            )


def fresh_of(net: nn.Module) -> Sequence[str]:
    return tuple(name for name, _ in net.named_children() if name in HEADS)


def blocks_of(net: nn.Module) -> str:
    """The name of the list of a model's layers; empty where there is none."""
    count = getattr(net.config, "num_hidden_layers", 0)
    return next(
        (
            name
            for name, module in net.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == count
        ),
        "",
    )


def padding_of(tokenizer: Any) -> int:
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(number) for number in found if number is not None)


def context_length(base: Base) -> int:
    """Tokens that the base can hold; 0 for no end."""
    return int(base.config.get("max_position_embeddings") or 0)


def ids_of(tokenizer: Any, text: str, pair: str, max_length: int) -> np.ndarray:
    """A text, or a text and another, as int64 ids of at most `max_length` (0: all).
    Where the tokenizer has no mark of its own between two texts, a line break stands
    there.
    """
    cut = {"truncation": True, "max_length": max_length} if max_length else {}
    if pair and tokenizer.num_special_tokens_to_add(
        pair=True
    ) > tokenizer.num_special_tokens_to_add(pair=False):
        ids = tokenizer(text, pair, **cut, verbose=False).input_ids
    else:
        ids = tokenizer(
            f"{text}\n{pair}" if pair else text, **cut, verbose=False
        ).input_ids
    return np.array(ids or [padding_of(tokenizer)], dtype=np.int64)


def pieces_of(
    tokenizer: Any,
    ids: Iterable[int],
    learned: Callable[[int], bool] = lambda place: False,
) -> list[Piece]:
    """Token by token, with what the loss looks at."""
    return [
        Piece(tokenizer.decode([int(number)]), learned(place))
        for place, number in enumerate(ids)
    ]


def grouped(lengths: Sequence[int], call: int = CALL) -> list[list[int]]:
    """Places of rows in groups of similar length: the partition of least Σ (call + rows
    · longest), found by dynamic programming.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    best, begin = [0.0], [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        cost, start = min(
            (best[start] + call + (end - start) * longest, start)
            for start in range(end)
        )
        best.append(cost)
        begin.append(start)
    groups, end = list[list[int]](), len(order)
    while end:
        groups.append(order[begin[end] : end])
        end = begin[end]
    return groups[::-1]


def in_groups(
    run: Callable[[Batch], Tensor], batch: Batch, by_token: bool = False
) -> Tensor:
    """run(rows {ids, mask} [n, t]) -> [n, ...] over all rows of the batch, group by
    group, in the batch's order.

    by_token: what `run` gives has a place for each token, [n, t, ...]; it is filled up
        with 0 to the batch's length.
    """
    lengths = batch["mask"].sum(1).tolist()
    groups = grouped(lengths)
    found = list[Tensor]()
    for group in groups:
        longest = max(lengths[place] for place in group)
        rows = torch.tensor(group, device=batch["ids"].device)
        given = run(
            {"ids": batch["ids"][rows, :longest], "mask": batch["mask"][rows, :longest]}
        )
        found.append(
            F.pad(
                given, (0, 0) * (given.dim() - 2) + (0, batch["ids"].shape[1] - longest)
            )
            if by_token
            else given
        )
    places = torch.tensor(
        [place for group in groups for place in group], device=batch["ids"].device
    )
    return torch.cat(found)[places.argsort()]
