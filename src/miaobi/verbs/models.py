"""The models in the store: list, show, promote, roll back, remove, merge adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from miaobi.core import bundle, storage
from miaobi.core.config import checked
from miaobi.core.errors import Conflict
from miaobi.core.language import say
from miaobi.core.storage import Location
from miaobi.core.store import Store, Version, check_name
from miaobi.models.resolvers import added_names
from miaobi.models.tuned import needs
from miaobi.models.weights import find

if TYPE_CHECKING:
    from miaobi.models.tuned import Tuned


@dataclass(frozen=True)
class Listing:
    """The models in the store, a row for each version."""

    models: tuple[Mapping[str, Any], ...]

    def __str__(self) -> str:
        if not self.models:
            return say(
                "No models yet. Train one: miaobi train recipes/text/poet_gpt.yaml --name poet",
                "还没有模型。训练一个：miaobi train recipes/text/poet_gpt.yaml --name poet",
            )
        return "\n".join(map(_row_text, self.models))


def _row_text(row: Mapping[str, Any]) -> str:
    created = row["created"][:16].replace("T", " ")
    return (
        f"{row['model']:<24} {row['family']:<8} {created}  "
        f"{row['megabytes']:8.1f} MB  {row['alias']}"
    )


@dataclass(frozen=True)
class Card:
    """One model: its manifest and its folder."""

    model: str
    path: Location
    production: bool
    manifest: bundle.Manifest

    def __str__(self) -> str:
        manifest = self.manifest
        mark = say("(production)", "（正式版）") if self.production else ""
        fingerprint = str(manifest.data.get("fingerprint", "?"))[:16]
        source = manifest.data.get("source", "?")
        parents = ", ".join(manifest.parents)
        scores = [f"{name} {value:.4g}" for name, value in manifest.metrics.items()]
        rows = {
            say("family", "模型族"): f"{manifest.family} ({manifest.modality})",
            say("made", "生成时间"): (
                f"{manifest.created}, miaobi {manifest.code_version}"
            ),
            say("data", "数据"): (
                f"{source}, {say('fingerprint', '指纹')} {fingerprint}"
            ),
            say("parents", "来源模型"): (
                parents or say("none: from scratch", "无（从头训练）")
            ),
            say("scores", "得分"): ", ".join(scores) or "–",
            say("folder", "位置"): str(self.path),
        }
        lines = [f"{self.model}  {mark}".rstrip()]
        lines += [f"  {name:<10} {value}" for name, value in rows.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Done:
    """What changed in the store, in a sentence."""

    models: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return self.message


def list_models() -> Listing:
    """List every version of every model, and the models of other packages."""
    rows = [row for _, _, row in versions()]
    rows += map(_added_row, added_names())
    return Listing(tuple(rows))


def _added_row(name: str) -> dict[str, Any]:
    """The row of a model that another package names: not in the store, so of no size."""
    weights = find(name)
    return {
        "model": name,
        "family": weights.family or weights.format,
        "modality": weights.modality,
        "created": "",
        "megabytes": 0.0,
        "alias": "",
    }


def versions() -> Iterator[tuple[Version, bundle.Manifest, dict[str, Any]]]:
    """Yield every version of every model, its manifest, and its row in the list."""
    store = Store()
    for name in store.names():
        for version in store.versions(name):
            manifest = bundle.read(version.location)
            yield version, manifest, _row(store, version, manifest)


def _row(store: Store, version: Version, manifest: bundle.Manifest) -> dict[str, Any]:
    aliases = list[str]()
    if _is_production(store, version):
        aliases.append("production")
    if store.versions(version.name)[-1].number == version.number:
        aliases.append("latest")
    return {
        "model": str(version),
        "family": manifest.family,
        "modality": manifest.modality,
        "created": manifest.created,
        "megabytes": storage.size(version.location) / 1e6,
        "alias": " ".join(aliases),
    }


def _is_production(store: Store, version: Version) -> bool:
    return store.production(version.name)[-1:] == [version.number]


def show(model: str) -> Card:
    """Show where a model came from and its scores.

    Args:
        model: a name, or name@version
    """
    store = Store()
    version = store.resolve(model)
    return Card(
        str(version),
        version.location,
        _is_production(store, version),
        bundle.read(version.location),
    )


def promote(model: str) -> Done:
    """Make a version the one that the bare name means.

    Args:
        model: name@version; a bare name promotes its newest version
    """
    version = Store().promote(model)
    message = say(
        f"{version.name} now means {version}.", f"{version.name} 现在指 {version}。"
    )
    return Done((str(version),), message)


def rollback(model: str) -> Done:
    """Go back to the version that was in production before.

    Args:
        model: a name
    """
    version = Store().rollback(model)
    message = say(
        f"{version.name} means {version} again.",
        f"{version.name} 已退回 {version}。",
    )
    return Done((str(version),), message)


def dependents(versions: Sequence[Version]) -> list[Version]:
    """Return the versions of the store that cannot run without these: adapters that
    were tuned on them.
    """
    store = Store()
    others = [
        other
        for name in store.names()
        for other in store.versions(name)
        if other not in versions
    ]
    return [
        other
        for other in others
        if any(
            needs(bundle.read(other.location), other.location, version)
            for version in versions
        )
    ]


def removable(model: str) -> list[Version]:
    """Return the versions that `remove` would remove. Raises Conflict while others
    cannot run without them.
    """
    store = Store()
    version = store.resolve(model)
    versions = [version] if "@" in model else store.versions(version.name)
    users = list(map(str, dependents(versions)))
    if users:
        raise Conflict(
            say(
                f"{', '.join(users)} runs on {model}.",
                f"{'、'.join(users)} 依赖 {model}。",
            ),
            say(
                "Remove that first, or merge its adapter: "
                f"miaobi export {users[0]} --to transformers --merge.",
                "请先删除它，或合并其适配器："
                f"miaobi export {users[0]} --to transformers --merge。",
            ),
        )
    return versions


def remove(model: str) -> Done:
    """Remove one version (poet@1), or a model with all its versions (poet). Refused
    while adapters that were tuned on it are in the store.

    Args:
        model: name@version, or a name
    """
    removable(model)
    removed = tuple(str(version) for version in Store().remove(model))
    message = say(f"Removed {', '.join(removed)}.", f"已删除 {'、'.join(removed)}。")
    return Done(removed, message)


@checked
def merge(
    models: tuple[str, ...],
    *,
    name: str,
    weights: tuple[float, ...] = (),
    method: Literal["linear", "svd", "ties"] = "linear",
    density: Annotated[float, Field(gt=0, le=1)] = 0.5,
    rank: Annotated[int, Field(ge=0)] = 0,
) -> Done:
    """Merge several adapters that were tuned from the same base into one.

    Args:
        models: tuned models of one base and task (name, name@version, or folder)
        name: Name of the new model.
        weights: Weight of each, in their order (0.7 0.3); equal parts of 1 by default.
        method: linear adds the updates exactly; svd reduces the sum to --rank; ties
            leaves out what is small or contradicts (arXiv:2306.01708).
        density: The share of each update that ties keeps.
        rank: Rank of the result for svd and ties; 0 for the sum of theirs.
    """
    from miaobi.models import merging
    from miaobi.models.tuned import open_tuned

    check_name(name)
    adapters = [open_tuned(find(model)) for model in models]
    labels = tuple(adapter.label for adapter in adapters)
    shares = weights or (1 / len(adapters),) * len(adapters)
    settings: dict[str, Any] = {
        "models": list(labels),
        "weights": list(shares),
        "method": method,
    }
    if method == "ties":
        settings["density"] = density
    if rank:
        settings["rank"] = rank
    first = adapters[0]
    manifest = replace(
        first.manifest,
        parents=labels,
        metrics={},
        recipe={**first.manifest.recipe, "name": name, "merged": settings},
    )

    def write(draft: Path) -> None:
        _copy_processing(first, draft)
        merging.combine(adapters, shares, method, draft, density=density, rank=rank)

    with TemporaryDirectory() as folder:
        written = bundle.write(Path(folder) / name, manifest, write)
        version = Store().add(written, name)
    terms = [
        f"{share:g} × {label}" for share, label in zip(shares, labels, strict=True)
    ]
    total = " + ".join(terms)
    message = say(
        f"{version} = {total} ({method}).", f"{version} = {total}（{method}）。"
    )
    return Done((str(version),), message)


def _copy_processing(tuned: Tuned, draft: Path) -> None:
    """Copy the files beside the adapter: tokenizer, template, labels."""
    from miaobi.models.tuned import ADAPTER, ADAPTER_WEIGHTS

    of_the_adapter = {
        ADAPTER,
        ADAPTER_WEIGHTS,
        bundle.MANIFEST,
        "log.jsonl",
        "README.md",
    }
    for file in tuned.folder.iterdir():
        if file.is_file() and file.name not in of_the_adapter:
            (draft / file.name).write_bytes(file.read_bytes())
