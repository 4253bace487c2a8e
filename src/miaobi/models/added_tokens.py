"""A base with further tokens: a copy of its folder whose tokenizer and embeddings grew.

Each new row, of the embeddings and of the output layer, begins as the mean of the rows
that were there (Hewitt 2021, "Initializing new word embeddings for pretrained language
models"): then no new token is likelier than the others. Rows that padding left unused
are taken first. The copy is made once, under $MIAOBI_HOME/converted; the base stays as
it is, and is what the copy is identified by.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miaobi.core.bundle import MANIFEST
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.files import home, locked, write_beside
from miaobi.core.language import say
from miaobi.models.base import Base, Growth
from miaobi.models.chat import ChatTemplate
from miaobi.models.weights import refuse_foreign_code

FORMAT = 1
"""Of the copies; those of older formats are not read."""
NOT_COPIED = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", MANIFEST)
"""Files that the copy has anew, or does not need."""


def with_tokens(base: Base, tokens: Sequence[str], special: Sequence[str]) -> Base:
    """Return the base with further tokens, copied on first use.

    Raises BadInput for tokens that it has already, Unsupported for a base that is no
    model of Transformers with a tokenizer.

    Args:
        base: as `open_base` gives it.
        tokens: read wherever they stand in a text, and written like any other.
        special: marks that a template writes; texts for people leave them out.
    """
    if not tokens and not special:
        return base
    growth = Growth(base.folder, tuple(tokens), tuple(special))
    target = _folder_of(base, growth)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent):  # one process copies, the others wait
        if not target.exists():
            _copy(base, growth, target)
    return Base(base.weights, target, growth)


def check_messages(base: Base, template: ChatTemplate | None) -> None:
    """Raise BadInput for added tokens that no message of a chat may spell.

    A template's messages are text: what looks like a control token is cut there, so that
    the model would never see it.
    """
    if base.growth is None or template is None:
        return
    control_tokens = template.control_tokens.tokens
    unread = [token for token in base.growth.tokens if token in control_tokens]
    if unread:
        raise BadInput(
            say(
                f"{', '.join(unread)} look like control tokens, which the messages of a chat "
                "cannot spell: they would not be learned.",
                f"{'、'.join(unread)} 形似控制词元，对话消息中不会编码为词元，因此学不到。",
            ),
            say(
                "Name them otherwise, such as <note>, or give those that the template itself "
                "writes with --tune.add_special_tokens.",
                "请换一种写法，例如 <note>；由模板写出的词元请用 --tune.add_special_tokens 添加。",
            ),
        )


def _folder_of(base: Base, growth: Growth) -> Path:
    """Return where the copy is: it depends on all files of the base, and the tokens."""
    names = repr((growth.tokens, growth.special))
    digest = hashlib.sha256(f"tokens {FORMAT} {base.identity} {names}".encode())
    for file in sorted(base.folder.rglob("*")):
        if file.suffix in (".json", ".jinja", ".txt", ".model"):
            digest.update(file.read_bytes())
    return home() / "converted" / digest.hexdigest()[:24] / "transformers"


def _copy(base: Base, growth: Growth, target: Path) -> None:
    """Write the grown copy of a base's folder."""
    from transformers.utils import logging

    model_class = _model_class(base)
    # Not the base's own object, which stays as it is.
    tokenizer = Base(base.weights, base.folder).tokenizer
    count = len(tokenizer)
    _add(base, tokenizer, growth)
    new = len(growth.tokens) + len(growth.special)
    print(
        say(
            f"Copying {base.name} with new tokens ({new}), once ...",
            f"正在复制 {base.name} 并添加新词元（{new} 个，仅此一次）...",
        ),
        file=sys.stderr,
    )
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    net = model_class.from_pretrained(
        base.folder, dtype="auto", use_safetensors=True, local_files_only=True
    )
    grow(net, count, len(tokenizer))
    with write_beside(target) as draft:
        ignored = shutil.ignore_patterns(*NOT_COPIED)
        shutil.copytree(base.folder, draft, ignore=ignored)
        net.save_pretrained(draft)
        tokenizer.save_pretrained(draft)


def _model_class(base: Base) -> Any:
    """Return the class of Transformers that the base was saved by. Raises Unsupported."""
    import transformers

    refuse_foreign_code(base.config, base.name)
    name = next(iter(base.config.get("architectures") or ()), "")
    model_class = getattr(transformers, name, None) if name else None
    if model_class is None:
        raise Unsupported(
            say(
                f"Tokens cannot be added to {base.name}, which is no model of Transformers "
                f"(its config.json names {name or 'no architecture'}).",
                f"无法为 {base.name} 添加词元：它不是 Transformers 模型（config.json 中的架构为 {name or '空'}）。",
            ),
            say(
                "Leave out --add-tokens, or choose a Transformers folder.",
                "请去掉 --add-tokens，或选用 Transformers 文件夹。",
            ),
        )
    return model_class


def _add(base: Base, tokenizer: Any, growth: Growth) -> None:
    """Add the new tokens to a tokenizer. Raises BadInput for those that it has."""
    from tokenizers import AddedToken

    vocabulary = tokenizer.get_vocab()
    new = [*growth.tokens, *growth.special]
    present = [token for token in new if token in vocabulary]
    if present:
        raise BadInput(
            say(
                f"{base.name} has these tokens already: {', '.join(present)}.",
                f"{base.name} 已有这些词元：{'、'.join(present)}。",
            ),
            say("Leave them out of --add-tokens.", "请从 --add-tokens 中去掉它们。"),
        )
    for content in growth.tokens:
        tokenizer.add_tokens([AddedToken(content, normalized=False)])
    for content in growth.special:
        token = AddedToken(content, normalized=False, special=True)
        tokenizer.add_tokens([token], special_tokens=True)


def grow(net: Any, count: int, size: int) -> None:
    """Give a model rows for the tokens `count` to `size`, each the mean of those before.

    Args:
        net: a model of Transformers, changed in place.
        count: how many tokens it had.
        size: how many it gets.
    """
    import torch

    table = net.get_input_embeddings()
    if size > len(table.weight):
        table = net.resize_token_embeddings(size, mean_resizing=False)
    output = net.get_output_embeddings()
    rows = [table.weight]
    if output is not None and output.weight is not table.weight:
        rows.append(output.weight)
    if output is not None and getattr(output, "bias", None) is not None:
        rows.append(output.bias)
    with torch.no_grad():
        for values in rows:
            values[count:size] = values[:count].float().mean(0).to(values.dtype)
