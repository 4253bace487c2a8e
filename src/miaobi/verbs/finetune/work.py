"""What a fine-tuning run works with: the opened base, the prepared examples, the
learner with its adapters, settings with nothing left open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.core import bundle
from miaobi.core.config import plain
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.store import Version
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base, open_base
from miaobi.tune import defaults, examples, methods, mixing
from miaobi.tune.defaults import Derived
from miaobi.tune.examples import Examples, Lengths
from miaobi.tune.learner import Learner
from miaobi.verbs.finetune.settings import Settings

PREVIEWED = 3


@dataclass(frozen=True)
class Work:
    settings: Settings
    base: Base
    spec: Mapping[str, Any]
    """What the head was told of the training data."""
    learner: Learner
    data: Examples
    lengths: Lengths
    reasons: Sequence[Derived]
    """Settings that were left open, with what they became and why."""
    before: Version | None
    """The tuned model that is tuned again."""

    @classmethod
    def open(
        cls, settings: Settings, before: Version | None, replay: float, quiet: bool
    ) -> Work:
        task = settings.task
        base = open_base(settings.base)
        plain = examples.prepare(settings.data, task, settings.head, not quiet)
        old = bundle.read(before.path) if before else None
        if old is not None:
            _same_base(old, base, str(before))
            plain = mixing.with_replay(
                plain, Path(str(old.data["folder"])), task, replay
            )
        # What head and lengths go by is the same whatever is mixed in, so that runs
        # with different shares compare.
        spec = (
            old.data["spec"]
            if old is not None
            else task.survey(examples.read_split(plain, "train", task), settings.head)
        )
        folder = mixing.with_mixture(
            plain, settings.data, task, settings.head, spec, not quiet
        )
        left_out = _unseen(settings, spec, folder)
        learner = task.learner(base, spec, settings.head)
        lengths = examples.measure(
            folder, task, learner, settings.data, context_of(base)
        )
        settings = settings.with_length(lengths.max_length)
        if before is not None:
            methods.restore(learner, settings.tune, before.path)
        else:
            methods.apply(learner, settings.tune)
        data = Examples(
            folder, task, learner, lengths.max_length, settings.data.too_long, left_out
        )
        reasons = defaults.derive(
            settings.given, settings.tune, settings.train, learner, data, lengths
        )
        settings = settings.derived({item.key: item.value for item in reasons})
        return cls(settings, base, spec, learner, data, lengths, reasons, before)

    def facts(self) -> dict[str, Any]:
        """What the bundle remembers of base and data."""
        weights = self.base.weights
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
            },
        }

    def preview(self) -> list[tuple[str, list[tuple[str, bool]]]]:
        """(place, pieces with whether they are learned) of the first training examples."""
        data = self.data
        count = min(PREVIEWED, data.count("train"))
        return [
            (
                data.examples("train")[place].location,
                [
                    (piece.text, piece.learned)
                    for piece in self.learner.preview(data.features("train", place))
                ],
            )
            for place in range(count)
        ]

    def show_preview(self) -> None:
        """The exact tokens of three examples, those that are learned in colour, what
        was mixed in and what was derived, on stderr.
        """
        from rich.console import Console
        from rich.text import Text

        console = Console(stderr=True, highlight=False)
        for place, pieces in self.preview():
            if not pieces:
                continue
            console.print(Text(f"── {place}", "dim"))
            shown = Text()
            for text, learned in pieces:
                # Where there is no colour, what is learned stands between brackets.
                shown.append(
                    text if console.is_terminal or not learned else f"⟦{text}⟧",
                    "bold green" if learned else "dim",
                )
            console.print(shown, soft_wrap=True)
        for name, said in mixing.describe(self.data.spec).items():
            console.print(f"data.mix.{name}: {said}", style="dim", soft_wrap=True)
        for item in self.reasons:
            console.print(
                f"train.{item.key} = {plain(item.value)}  ({item.reason})",
                style="dim",
                soft_wrap=True,
            )


def context_of(base: Base) -> int:
    """Tokens that the base can hold; 0 where its config does not say."""
    settings = {**base.config, **base.config.get("text_config", {})}
    return int(
        next(
            (
                settings[key]
                for key in ("max_position_embeddings", "n_positions", "max_seq_len")
                if settings.get(key)
            ),
            0,
        )
    )


def _same_base(old: bundle.Manifest, base: Base, model: str) -> None:
    known = old.data["base"]
    if known["hash"] != base.identity:
        raise BadInput(
            say(
                f"{model} was tuned from {known['name']} "
                f"({known['hash'][:12]}…); {base.name} is "
                f"{base.identity[:12]}…, other weights.",
                f"{model} 由 {known['name']}（{known['hash'][:12]}…）微调而来；"
                f"{base.name} 为 {base.identity[:12]}…，权重不同。",
            ),
            say(
                f"Bring back the base it was tuned from ({known['location']}), or tune anew.",
                f"请恢复原来的基础模型（{known['location']}），或重新微调。",
            ),
        )


def _unseen(
    settings: Settings, spec: Mapping[str, Any], folder: Path
) -> frozenset[str]:
    """Places of held-out examples that chance parted from all others of their label. In
    a file of its own such an example is an error: BadInput names it.
    """
    own = {
        "validation": settings.data.validation_path,
        "test": settings.data.test_path,
        "train": "all of it",
    }
    found = set[str]()
    for split in examples.SPLITS:
        for example in examples.read_split(folder, split, settings.task):
            try:
                settings.task.check(example, spec, settings.head)
            except Unusable as error:
                if own[split]:
                    raise BadInput(
                        f"{example.location}: {error.what}", error.remedy
                    ) from None
                found.add(example.location)
    return frozenset(found)
