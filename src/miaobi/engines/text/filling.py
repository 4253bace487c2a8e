"""Filling in between two texts, for models that were trained to (Bavarian et al. 2022,
arXiv:2207.14255).

    prefix token, prefix, suffix token, suffix, middle token → middle

Each line of models has names of its own for the three tokens, and tokens that end a fill
beside the model's own end. A vocabulary that has a form's tokens belongs to a model that
knows the form; that such a model was trained with it, only its authors can say. Control
tokens that people's texts spell are text, as in a conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.models.control_tokens import ControlTokens, Marks, Prompt


@dataclass(frozen=True)
class Form:
    """How a line of models is asked to fill in."""

    prefix: str
    suffix: str
    middle: str
    ends: tuple[str, ...] = ()
    """What ends a fill beside the model's own end tokens."""

    @property
    def tokens(self) -> tuple[str, str, str]:
        return self.prefix, self.suffix, self.middle

    def prompt(self, before: str, behind: str, control: ControlTokens) -> Prompt:
        """Return the prompt that asks for what stands between two texts."""
        marks = Marks.unused_in([before, behind])
        rendered = "".join(
            (
                self.prefix,
                control.cut(before, marks.cut),
                self.suffix,
                control.cut(behind, marks.cut),
                self.middle,
            )
        )
        return marks.prompt(rendered, control)


FORMS = (
    # Models trained here (data/text/filling.py), Qwen2.5-Coder, CodeGemma.
    Form(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        (
            "<|endoftext|>",
            "<|fim_pad|>",
            "<|repo_name|>",
            "<|file_sep|>",
            "<|file_separator|>",
        ),
    ),
    # StarCoder, StarCoder2, Granite.
    Form(
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
        ("<|endoftext|>", "<fim_pad>", "<file_sep>"),
    ),
    # SantaCoder.
    Form("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ("<|endoftext|>",)),
    # DeepSeek-Coder.
    Form(
        "<\uff5cfim\u2581begin\uff5c>",
        "<\uff5cfim\u2581hole\uff5c>",
        "<\uff5cfim\u2581end\uff5c>",
    ),
)


def form_of(tokens: Collection[str]) -> Form | None:
    """Return the form whose tokens are all in a vocabulary; None where there is none."""
    for form in FORMS:
        if all(token in tokens for token in form.tokens):
            return form
    return None


def refuse_without(form: Form | None, name: str) -> Callable[[object], None]:
    """Return the check of a request's suffix for the model `name`."""

    def check(suffix: object) -> None:
        if form is None:
            raise Unsupported(
                say(
                    f"{name} was not trained to fill in before a suffix: its vocabulary has no tokens for that.",
                    f"{name} 没有学过在后文之前补全：它的词表中没有相应的词元。",
                ),
                say(
                    "Leave suffix out, or choose a model that does: one of recipes/text/code_completion.yaml, "
                    "Qwen2.5-Coder, StarCoder2, DeepSeek-Coder.",
                    "请去掉 suffix，或选用学过补全的模型：recipes/text/code_completion.yaml 训练的模型、"
                    "Qwen2.5-Coder、StarCoder2、DeepSeek-Coder。",
                ),
                field="suffix",
            )

    return check
