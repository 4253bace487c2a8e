"""What the tasks over text share: a pretrained model with a new head, texts as token
ids, and batches without waste.

Rows of a batch are brought to one length with padding, which most of the work is then
spent on. `grouped` splits a batch into a few groups of similar length; each is run by
itself, cut to its own longest row. Losses are sums, so gradients stay those of the
whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
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
CALL_COST = 96
"""What one more call of the network costs, in tokens."""


def with_head(
    base: Base, auto: Any, dropout: float | None = None, **settings: Any
) -> nn.Module:
    """Return the base's model with a head, a new one where the weights have none.

    Raises Unsupported for a base that has no such head.

    Args:
        base: a text model of Transformers.
        auto: one of Transformers' Auto classes.
        dropout: of what the head sees; None for the model's own.
        settings: of the model's config.
    """
    from transformers import AutoConfig

    if not base.config.get("model_type"):
        raise Unsupported(
            say(
                f"{base.name} is not a text model that Transformers knows.",
                f"{base.name} 不是 Transformers 支持的文本模型。",
            ),
            say(
                "Choose an encoder (e5-small, use-multilingual, BERT ...) or a causal "
                "language model (smollm2, one trained by `miaobi train`).",
                "请选用编码器（e5-small、BERT 等）或因果语言模型（smollm2，或由 `miaobi train` 训练的模型）。",
            ),
        )
    base.register()
    config = AutoConfig.from_pretrained(base.folder, local_files_only=True)
    settings["pad_token_id"] = padding_of(base.tokenizer)
    for name, value in settings.items():
        setattr(config, name, value)
    try:
        net = _load(base, auto, config)
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
    if dropout is not None:
        _set_head_dropout(net, dropout)
    return net


def _load(base: Base, auto: Any, config: Any) -> nn.Module:
    """Return the model with the base's weights in it.

    Transformers has another name for the body of some models under another head
    (`transformer` in LlamaForQuestionAnswering, `model` everywhere else), and then
    leaves it random without a word: such a body is loaded by itself.
    """
    from transformers import AutoModel

    loaded: Any = base.model(auto, config=config, output_loading_info=True)
    net, info = loaded
    prefix = f"{net.base_model_prefix}."
    body = {name for name in net.state_dict() if name.startswith(prefix)}
    if body and body <= set(info["missing_keys"]):
        setattr(net, net.base_model_prefix, base.model(AutoModel, config=config))
    model: nn.Module = net
    return model


def _set_head_dropout(net: nn.Module, dropout: float) -> None:
    """Set the dropout of what the head sees.

    Heads of causal models have none of their own: one is put before them.
    """
    children = dict(net.named_children())
    layers = [child for child in children.values() if isinstance(child, nn.Dropout)]
    for layer in layers:
        layer.p = dropout
    if layers or not dropout:
        return

    def drop(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = inputs
        return F.dropout(hidden, dropout, head.training), *others

    for name in HEADS:
        if name in children:
            children[name].register_forward_pre_hook(drop)


def fresh_of(net: nn.Module) -> Sequence[str]:
    """Return the names of the model's heads."""
    return tuple(name for name, _ in net.named_children() if name in HEADS)


def blocks_of(net: Any) -> str:
    """Return the name of the list of a model's layers; empty where there is none."""
    count = getattr(net.config, "num_hidden_layers", 0)
    for name, module in net.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return str(name)
    return ""


def padding_of(tokenizer: Any) -> int:
    """Return the id that rows are padded with."""
    for number in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if number is not None:
            return int(number)
    return 0


def context_length(base: Base) -> int:
    """Return the tokens that the base can hold; 0 for no limit."""
    return int(base.config.get("max_position_embeddings") or 0)


def ids_of(tokenizer: Any, text: str, pair: str, max_length: int) -> np.ndarray:
    """Return a text, or two texts, as ids, int64 [length].

    Where the tokenizer has no mark of its own between two texts, a line break separates
    them.

    Args:
        tokenizer: of the base.
        text: the first text.
        pair: the second text; empty for none.
        max_length: of the ids; 0 for all.
    """
    texts = [text]
    if pair and _marks_pairs(tokenizer):
        texts = [text, pair]
    elif pair:
        texts = [f"{text}\n{pair}"]
    cut = {"truncation": True, "max_length": max_length} if max_length else {}
    ids = tokenizer(*texts, **cut, verbose=False).input_ids
    return np.array(ids or [padding_of(tokenizer)], dtype=np.int64)


def _marks_pairs(tokenizer: Any) -> bool:
    """Return whether the tokenizer puts a mark between two texts."""
    of_pair = tokenizer.num_special_tokens_to_add(pair=True)
    of_text = tokenizer.num_special_tokens_to_add(pair=False)
    return bool(of_pair > of_text)


def pieces_of(
    tokenizer: Any,
    ids: Iterable[int],
    learned: Callable[[int], bool] = lambda index: False,
) -> list[Piece]:
    """Return the text of each token, with what the loss looks at.

    Args:
        tokenizer: of the base.
        ids: the tokens.
        learned: whether the loss looks at the token of an index.
    """
    return [
        Piece(tokenizer.decode([int(number)]), learned(index))
        for index, number in enumerate(ids)
    ]


def grouped(lengths: Sequence[int], call_cost: int = CALL_COST) -> list[list[int]]:
    """Return the indices of rows in groups of similar length.

    The partition of least Σ (call_cost + rows · longest), by dynamic programming.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    costs = [0.0]
    """Of the shortest n rows."""
    begins = [0]
    """Where the last group of the shortest n rows begins."""
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        options = [
            (costs[begin] + call_cost + (end - begin) * longest, begin)
            for begin in range(end)
        ]
        cost, begin = min(options)
        costs.append(cost)
        begins.append(begin)
    groups = list[list[int]]()
    end = len(order)
    while end:
        groups.append(order[begins[end] : end])
        end = begins[end]
    return groups[::-1]


def in_groups(
    run: Callable[[Batch], Tensor], batch: Batch, by_token: bool = False
) -> Tensor:
    """Run over all rows of a batch, group by group; return [n, ...] in its order.

    Args:
        run: rows {ids, mask} [n, t] -> [n, ...].
        batch: ids and mask [N, T].
        by_token: whether `run` gives [n, t, ...], a value for each token; it is filled
            up with 0 to the batch's length.
    """
    lengths = batch["mask"].sum(1).tolist()
    length = batch["ids"].shape[1]
    groups = grouped(lengths)
    outputs = list[Tensor]()
    for group in groups:
        longest = max(lengths[row] for row in group)
        rows = torch.tensor(group, device=batch["ids"].device)
        output = run(
            {"ids": batch["ids"][rows, :longest], "mask": batch["mask"][rows, :longest]}
        )
        if by_token:
            inner = (0, 0) * (output.dim() - 2)
            output = F.pad(output, (*inner, 0, length - longest))
        outputs.append(output)
    order = torch.tensor(list(chain(*groups)), device=batch["ids"].device)
    return torch.cat(outputs)[order.argsort()]
