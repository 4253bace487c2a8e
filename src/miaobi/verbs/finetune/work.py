"""What a fine-tuning run works with: the opened base, the prepared examples, the
learner with its adapters, settings with nothing left open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.core import bundle
from miaobi.core.config import plain
from miaobi.core.errors import BadInput
from miaobi.core.language import in_each, joined, say
from miaobi.core.store import Version
from miaobi.data.survey import counted
from miaobi.data.text.shapes import Unusable
from miaobi.engines.load import load
from miaobi.models.added_tokens import with_tokens
from miaobi.models.base import Base, Growth, open_base
from miaobi.models.fresh import NEW, fresh_base
from miaobi.train.run import describe_no_validation
from miaobi.tune import defaults, examples, labels, methods, mixing
from miaobi.tune.defaults import Derived
from miaobi.tune.examples import Examples, Fit, Lengths
from miaobi.tune.learner import Example, Learner
from miaobi.tune.text import teacher
from miaobi.verbs.finetune.settings import Settings

PREVIEWED_EXAMPLES = 3
UNUSED_LISTED = 20
FEW_EXAMPLES = 10
"""With fewer to train on, a run is warned of."""


@dataclass(frozen=True)
class Work:
    settings: Settings
    base: Base
    spec: Mapping[str, Any]
    """What the head needs to know of the training data."""
    learner: Learner
    data: Examples
    lengths: Lengths
    reasons: Sequence[Derived]
    """Settings that were left open, with their values and why."""
    before: Version | None
    """The tuned model that is tuned again."""
    fit: Fit
    """What of the examples the base can be taught."""

    @classmethod
    def open(
        cls, settings: Settings, before: Version | None, replay: float, quiet: bool
    ) -> Work:
        """Prepare the examples, open the base and put adapters into it.

        Args:
            settings: as resolved from recipe and command line
            before: a tuned model that is tuned again; its base must be the same
            replay: old training examples for each new one, with `before`
            quiet: without progress
        """
        task = settings.task
        head = settings.head
        own_folder = examples.prepare(settings.data, task, head, not quiet)
        old = bundle.read(before.location) if before else None
        base = _open_base(settings, own_folder, old)
        if old is not None:
            _check_same_base(old, base, str(before))
            old_folder = Path(str(old.data["folder"]))
            own_folder = mixing.with_replay(own_folder, old_folder, task, replay)
            _check_same_tokens(old, settings, str(before))
            spec = old.data["spec"]
        else:
            rows = examples.read_split(own_folder, "train", task)
            with teacher.opened_by(load):
                spec = task.survey(rows, head)
        # Head and lengths follow from what is not mixed in, so that runs with different
        # shares compare.
        folder = mixing.with_mixture(
            own_folder, settings.data, task, head, spec, not quiet
        )
        left_out = _unseen(settings, spec, folder)
        tune = settings.tune
        base = with_tokens(base, tune.add_tokens, tune.add_special_tokens)
        with teacher.opened_by(load):
            learner = task.learner(base, spec, head)
        learner.added_ids = base.added_ids
        fit = examples.fit(folder, task, learner, settings.data.strict)
        left_out |= fit.left_out
        lengths = examples.measure(
            folder, task, learner, settings.data, context_of(base), left_out
        )
        settings = settings.with_length(lengths.max_length)
        if before is not None:
            methods.restore(learner, settings.tune, before.path)
        else:
            methods.apply(learner, settings.tune)
        data = Examples(
            folder, task, learner, lengths.max_length, settings.data.too_long, left_out
        )
        if not data.count("train"):
            raise _nothing_to_learn(settings, lengths)
        reasons = defaults.derive(
            settings.explicit_keys,
            settings.tune,
            settings.train,
            learner,
            data,
            lengths,
        )
        settings = settings.derived({item.key: item.value for item in reasons})
        return cls(settings, base, spec, learner, data, lengths, reasons, before, fit)

    def facts(self) -> dict[str, Any]:
        """Return what the bundle records of base and data."""
        weights = self.base.weights
        growth = self.base.growth
        added = dict[str, Any]()
        if growth is not None:
            added = {"tokens": [*growth.tokens], "special": [*growth.special]}
        return {
            "fingerprint": self.data.fingerprint,
            "folder": str(self.data.folder),
            "spec": dict(self.spec),
            "source": self.settings.data.pack or self.settings.data.path,
            "base": {
                "name": self.base.name,
                "location": weights.location,
                "format": weights.format,
                "hash": self.base.identity,
                **({"added": added} if added else {}),
            },
        }

    def preview(self) -> list[tuple[str, list[tuple[str, bool]]]]:
        """Return (location, (piece, whether it is learned)...) of a few training examples."""
        count = min(PREVIEWED_EXAMPLES, self.data.count("train"))
        rows = list[tuple[str, list[tuple[str, bool]]]]()
        for number, example in enumerate(self.data.examples("train")[:count]):
            pieces = self.learner.preview(self.data.features("train", number))
            texts = [(piece.text, piece.learned) for piece in pieces]
            rows.append((example.location, texts))
        return rows

    def notes_on_records(self) -> list[str]:
        """Return what became of the records' keys, and of those that were left out."""
        notes = list[str]()
        unused = self.data.spec.get("unused", {})
        if unused:
            keys = counted(unused, UNUSED_LISTED)
            notes.append(say(f"keys not used: {keys}", f"未用的键：{keys}"))
        relabelled = self.data.spec.get("relabelled", {})
        if relabelled:
            listed = counted(relabelled, UNUSED_LISTED)
            notes.append(say(f"labels read as: {listed}", f"标签读作：{listed}"))
        if self.fit.unwritten:
            keys = counted(self.fit.unwritten, UNUSED_LISTED)
            notes.append(
                say(
                    f"keys that the base has no way to read: {keys}",
                    f"基础模型无法读取的键：{keys}",
                )
            )
        problems = self.data.spec["problems"]
        count = problems["count"] + len(self.fit.problems)
        if count:
            first = [*problems["first"], *self.fit.problems][0]
            notes.append(
                say(
                    f"records left out: {count:,} (",
                    f"略去的记录：{count:,} 条（",
                )
                + first
                + say(")", "）")
            )
        return notes

    def show_preview(self) -> None:
        """Print the preview, what was mixed in, what of the records was not used and
        what was derived to stderr.
        """
        from rich.console import Console
        from rich.text import Text

        console = Console(stderr=True, highlight=False, markup=False)
        for location, pieces in self.preview():
            if not pieces:
                continue
            console.print(Text(f"── {location}", "dim"))
            line = Text()
            for text, learned in pieces:
                # Without colour, what is learned stands in brackets.
                if learned and not console.is_terminal:
                    text = f"⟦{text}⟧"
                line.append(text, "bold green" if learned else "dim")
            console.print(line, soft_wrap=True)
        notes = [
            *self.notes_on_examples(),
            *self._details(),
        ]
        for note in notes:
            console.print(note, style="dim", soft_wrap=True)

    def notes(self) -> list[str]:
        """Return what to know of the data before the run."""
        notes = self.notes_on_examples()
        if not self.data.count("validation"):
            notes.append(describe_no_validation())
        return notes

    def notes_on_examples(self) -> list[str]:
        """Return how the task was recognised, doubts about the labels, what is too long
        or teaches nothing, and whether few examples are left.
        """
        guess = self.settings.guess
        few = _describe_few(self.data.count("train"), self.data.count("validation"))
        return [
            *([str(guess)] if guess else []),
            *labels.remarks(self.spec.get("counts", {})),
            *self.notes_on_lengths(),
            *([few] if few else []),
        ]

    def notes_on_lengths(self) -> list[str]:
        """Return how many examples are too long, or teach nothing."""
        notes = [self._describe_lengths(), self._describe_taught_nothing()]
        return [note for note in notes if note]

    def _describe_lengths(self) -> str:
        """Return how many examples are too long, and what becomes of them."""
        lengths = self.lengths
        if not lengths.cut:
            return ""
        count = self.data.spec["splits"]["train"]
        what = say(
            f"{lengths.cut} of {count} training examples have more than "
            f"{lengths.max_length} tokens (the longest {lengths.longest})",
            f"{count} 条训练样本中有 {lengths.cut} 条超过 {lengths.max_length} 个词元"
            f"（最长 {lengths.longest}）",
        )
        becomes = self._describe_too_long()
        return in_each(
            lambda: say(f"{what}: {becomes}.", f"{what}：{becomes}。")
        ) + _describe_limit(lengths)

    def _describe_too_long(self) -> str:
        lengths = self.lengths
        if self.settings.data.too_long == "drop":
            return say("they are left out", "略去")
        if self.settings.data.too_long == "split":
            count = self.data.count("train")
            return say(
                f"they are split, which makes {count} examples",
                f"拆分，共得到 {count} 条",
            )
        parts = list[str]()
        whole = lengths.cut - lengths.ends_cut
        if whole:
            parts.append(
                say(
                    f"{whole} lose the beginning of their prompt and keep their answer",
                    f"{whole} 条截去提示的开头，回答完整保留",
                )
            )
        if lengths.ends_cut:
            parts.append(
                say(
                    f"{lengths.ends_cut} lose their end",
                    f"{lengths.ends_cut} 条截去末尾",
                )
            )
        return joined(parts, say(", ", "，"))

    def _describe_taught_nothing(self) -> str:
        counts = self.data.taught_nothing
        if not sum(counts.values()):
            return ""
        by_split = ", ".join(
            f"{name} {count}" for name, count in counts.items() if count
        )
        return say(
            f"Left out, since nothing of them would be learned: {by_split}.",
            f"以下样本没有可学习的内容，已略去：{by_split}。",
        )

    def _details(self) -> list[str]:
        """Return what was mixed in, and what was derived and why."""
        notes = [
            f"data.mix.{name}: " + summary
            for name, summary in mixing.describe(self.data.spec).items()
        ]
        if self.base.growth is not None:
            notes.append(self._describe_added(self.base.growth))
        notes += self.notes_on_records()
        for item in self.reasons:
            setting = f"train.{item.key} = {plain(item.value)}"
            notes.append(setting + "  (" + item.reason + ")")
        return notes

    def _describe_added(self, growth: Growth) -> str:
        """Return the new tokens, each with the training examples that hold it."""
        tokens = (*growth.tokens, *growth.special)
        counted = list[str]()
        for token, number in zip(tokens, self.base.added_ids, strict=True):
            count = self.data.holding(number)
            nothing = say("none, so it is not learned", "没有，因此学不到")
            counted.append(f"{token} ({count or nothing})")
        listed = ", ".join(counted)
        return in_each(
            lambda: say(
                f"new tokens, and how many training examples hold them: {listed}",
                f"新词元及含有它的训练样本数：{listed}",
            )
        )


def _describe_few(train: int, validation: int) -> str:
    """Return a warning where there are few training examples; "" elsewhere."""
    if train >= FEW_EXAMPLES:
        return ""
    return say(
        f"Only {train} to train on, {validation} for validation: a model learns so few "
        "by heart, and what is measured says little. A few hundred are a beginning.",
        f"只有 {train} 条训练样本、{validation} 条验证样本：模型只会把它们背下来，"
        "评估结果也说明不了什么。至少准备几百条。",
    )


def _describe_limit(lengths: Lengths) -> str:
    """Return which max_length would keep more of the examples whole."""
    if lengths.max_length == lengths.limit:
        return say(" That is all the base can hold.", "基础模型最多容纳这么多。")
    if lengths.needed == lengths.longest:
        return say(
            f" --data.max_length {lengths.longest} keeps them whole.",
            f"--data.max_length {lengths.longest} 可完整保留。",
        )
    return say(
        f" --data.max_length {lengths.limit} is all the base can hold.",
        f"基础模型最多容纳 --data.max_length {lengths.limit}。",
    )


def _nothing_to_learn(settings: Settings, lengths: Lengths) -> BadInput:
    """Return the error for data of which nothing is left to train on."""
    source = settings.data.pack or settings.data.path
    if settings.data.too_long == "drop" and lengths.cut:
        return BadInput(
            say(
                f"{source}: all training examples have more than {lengths.max_length} tokens.",
                f"{source}：所有训练样本都超过 {lengths.max_length} 个词元。",
            ),
            f"--data.max_length {lengths.needed}",
        )
    return BadInput(
        say(
            f"{source}: nothing of the training examples would be learned.",
            f"{source}：训练样本中没有可学习的内容。",
        ),
        say(
            "Look at how the base's chat template writes the assistant's turns, or give another with --head.template.",
            "请查看基础模型的对话模板如何书写助手的发言，或用 --head.template 换一个模板。",
        ),
    )


CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Names under which configs of bases keep the length of their context."""


def context_of(base: Base) -> int:
    """Return the tokens that the base can hold; 0 where its config does not say."""
    settings = {**base.config, **base.config.get("text_config", {})}
    for key in CONTEXT_KEYS:
        if settings.get(key):
            return int(settings[key])
    return 0


def _open_base(settings: Settings, folder: Path, old: Any) -> Base:
    """Return the base; a new one is made of the training examples in `folder`, or is the
    one of the model that is tuned again, whose manifest is `old`.
    """
    if settings.base != NEW:
        return open_base(settings.base)
    if old is not None:
        return open_base(str(old.data["base"]["location"]))
    rows = examples.read_split(folder, "train", settings.task)
    return fresh_base(settings.new, [text for row in rows for text in _texts(row)])


def _texts(row: Example) -> Iterator[str]:
    """The texts among the columns of an example, those inside lists and mappings too."""
    waiting: list[Any] = [row.columns]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value


def _check_same_base(old: bundle.Manifest, base: Base, model: str) -> None:
    """Raise BadInput where `model` was tuned from other weights than those of `base`."""
    recorded = old.data["base"]
    if recorded["hash"] == base.identity:
        return
    before = f"{recorded['name']} ({recorded['hash'][:12]}…)"
    now = base.identity[:12]
    raise BadInput(
        say(
            f"{model} was tuned from {before}; {base.name} is {now}…, other weights.",
            f"{model} 由 {before} 微调而来；{base.name} 为 {now}…，权重不同。",
        ),
        say(
            f"Restore the base it was tuned from ({recorded['location']}), or tune anew.",
            f"请恢复原来的基础模型（{recorded['location']}），或重新微调。",
        ),
    )


def _check_same_tokens(old: bundle.Manifest, settings: Settings, model: str) -> None:
    """Raise BadInput where other tokens are to be added than `model` was tuned with."""
    added = old.data["base"].get("added", {})
    before = [*added.get("tokens", ()), *added.get("special", ())]
    now = [*settings.tune.add_tokens, *settings.tune.add_special_tokens]
    if before == now:
        return
    raise BadInput(
        say(
            f"{model} was tuned with the new tokens {before}, and is to be tuned again with {now}.",
            f"{model} 微调时添加的词元为 {before}，再次微调时为 {now}。",
        ),
        say(
            f"Leave out --add-tokens, or export it with miaobi export {model} --merge and tune that folder.",
            f"请去掉 --add-tokens，或用 miaobi export {model} --merge 导出后微调该文件夹。",
        ),
    )


def _unseen(
    settings: Settings, spec: Mapping[str, Any], folder: Path
) -> frozenset[str]:
    """Return the locations of held-out examples whose label training does not have.

    By chance the split may part an example from all others of its label. In a file of
    its own such an example is an error.

    Raises:
        BadInput: an example of the training data, or of a file of its own, does not fit
    """
    must_fit = {
        "train": True,
        "validation": bool(settings.data.validation_path),
        "test": bool(settings.data.test_path),
    }
    locations = set[str]()
    for split in examples.SPLITS:
        for example in examples.read_split(folder, split, settings.task):
            try:
                settings.task.check(example, spec, settings.head)
            except Unusable as error:
                if must_fit[split]:
                    raise BadInput(error.at(example.location), error.remedy) from None
                locations.add(example.location)
    return frozenset(locations)
