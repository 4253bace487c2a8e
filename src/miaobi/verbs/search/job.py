"""A search as its folder keeps it: what another process needs to run its trials."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from miaobi.core import config, storage
from miaobi.core.errors import BadInput, Conflict, NotFound, nearest
from miaobi.core.files import write_text
from miaobi.core.language import say
from miaobi.families import families
from miaobi.train.search import Dimension, Rules
from miaobi.verbs.search.space import set_key

MANIFEST = "search.json"


@dataclass(frozen=True)
class Job:
    """The contents of search.json."""

    name: str
    kind: str
    """"train" or "finetune"."""
    recipe: Mapping[str, Any]
    """With what the command line changed, and without the length of a trial."""
    metric: str
    steps: int
    """Of a trial with the recipe's own batch; with another batch, as many as see the
    same number of examples.
    """
    batch: int
    """Examples of one of those steps."""
    microbatches: int
    """Of one of those steps."""
    minutes: float | None
    """Time limit of a trial; it gets fewer steps where they would take longer."""
    whole: int | None
    """The steps of the recipe itself; None where it leaves them to be derived."""
    space: tuple[Dimension, ...]
    fixed: Mapping[str, Any]
    """The recipe's own values, flat."""
    rules: Rules
    seconds: float
    """Estimated time of a trial with the recipe's own values."""

    def write(self, folder: Path) -> None:
        content = config.plain(asdict(self))
        write_text(folder / MANIFEST, json.dumps(content, ensure_ascii=False, indent=1))

    @classmethod
    def read(cls, folder: Path) -> Job:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        content["space"] = tuple(_dimension(item) for item in content["space"])
        content["rules"] = Rules(**content["rules"])
        if "accumulation" in content:  # a search runs in one process: it is the same
            content["microbatches"] = content.pop("accumulation")
        return cls(**content)

    def steps_for(self, steps: int, chosen: Mapping[str, Any]) -> int:
        """Return `steps` of the recipe's batch as steps of the chosen batch."""
        own_batch_size = self.batch // self.microbatches
        batch_size = int(chosen.get("train.batch_size", own_batch_size))
        microbatches = self._microbatches(chosen)
        return max(round(steps * self.batch / (batch_size * microbatches)), 1)

    def _microbatches(self, chosen: Mapping[str, Any]) -> int:
        """The microbatches of a step with the chosen values."""
        # Trials of searches that began under 0.1.0 choose it by its earlier name.
        earlier = chosen.get("train.accumulation", self.microbatches)
        return int(chosen.get("train.microbatches", earlier))

    def recipe_with(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return the recipe with chosen values, without what the chosen family lacks."""
        tree = copy.deepcopy(dict(self.recipe))
        for key, value in chosen.items():
            set_key(tree, key, value)
        if "train.batch_size" in chosen:
            set_key(tree, "train.microbatches", self._microbatches(chosen))
        if "family" in chosen and tree.get("model"):
            options = config.options(families.get(chosen["family"]).Config)
            keys = {option.key for option in options}
            tree["model"] = {
                key: value for key, value in tree["model"].items() if key in keys
            }
        return tree


def _dimension(content: Mapping[str, Any]) -> Dimension:
    when = {key: tuple(values) for key, values in content["when"].items()}
    return Dimension(**{**content, "choices": tuple(content["choices"]), "when": when})


def new_folder(name: str, runs: str) -> Path:
    """Return the folder of a search that begins now; it is not created.

    Raises:
        BadInput: runs is a URL
        Conflict: there is a search of this name
    """
    where = storage.location(runs)
    if isinstance(where, storage.Url):
        raise BadInput(
            say(
                f"--runs is {runs}, but a search keeps a database, which has to be on this machine.",
                f"--runs 为 {runs}，但搜索使用的数据库必须保存在本机。",
            ),
            say("Give a folder.", "请给出文件夹。"),
        )
    folder = where / f"search-{name}"
    if folder.exists():
        raise Conflict(
            say(
                f"There is a search of this name: {folder}.",
                f"已有同名搜索：{folder}。",
            ),
            say(
                f"Continue it: miaobi search --resume {folder}; or choose another --name.",
                f"继续它：miaobi search --resume {folder}；或换一个 --name。",
            ),
        )
    return folder


def find_folder(name: str, runs: Path) -> Path:
    """Return the folder of a search by its path, its name, or the beginning of its name.

    Raises:
        NotFound: there is none
    """
    if (Path(name) / MANIFEST).exists():
        return Path(name)
    folders = sorted(path.parent for path in runs.glob(f"search-*/{MANIFEST}"))
    for folder in folders:
        if folder.name.startswith((name, f"search-{name}")):
            return folder
    raise NotFound(
        say(
            f"There is no search {name!r} under {runs}.",
            f"{runs} 下没有名为 {name!r} 的搜索。",
        ),
        nearest(name, [folder.name for folder in folders]),
    )
