"""The models in the store: list, show, promote, roll back, remove, merge adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from miaobi.core import bundle
from miaobi.core.language import say
from miaobi.core.store import Store, Version, check_name


@dataclass(frozen=True)
class Listing:
    models: tuple[Mapping[str, Any], ...]

    def __str__(self) -> str:
        if not self.models:
            return say(
                "No models yet. Make one: miaobi train recipes/text/poet_gpt.yaml --name poet",
                "还没有模型。训练一个：miaobi train recipes/text/poet_gpt.yaml --name poet",
            )
        return "\n".join(
            f"{row['model']:<24} {row['family']:<8} {row['created'][:16].replace('T', ' ')}  {row['megabytes']:8.1f} MB"
            f"  {row['alias']}"
            for row in self.models
        )


@dataclass(frozen=True)
class Card:
    """One model: its manifest and where it lies."""

    model: str
    path: Path
    production: bool
    manifest: bundle.Manifest

    def __str__(self) -> str:
        manifest, lines = (
            self.manifest,
            [
                f"{self.model}  {say('(production)', '（正式版）') if self.production else ''}".rstrip()
            ],
        )
        rows = {
            say("family", "模型族"): f"{manifest.family} ({manifest.modality})",
            say(
                "made", "生成时间"
            ): f"{manifest.created}, miaobi {manifest.code_version}",
            say("data", "数据"): (
                f"{manifest.data.get('source', '?')}, {say('fingerprint', '指纹')} "
                f"{str(manifest.data.get('fingerprint', '?'))[:16]}"
            ),
            say("parents", "来源模型"): ", ".join(manifest.parents)
            or say("none: from scratch", "无（从头训练）"),
            say("scores", "得分"): ", ".join(
                f"{name} {value:.4g}" for name, value in manifest.metrics.items()
            )
            or "–",
            say("place", "位置"): str(self.path),
        }
        return "\n".join(
            [*lines, *(f"  {name:<10} {value}" for name, value in rows.items())]
        )


@dataclass(frozen=True)
class Done:
    models: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return self.message


def list_models() -> Listing:
    """Every version of every model."""
    return Listing(tuple(row for _, _, row in versions()))


def versions() -> Iterator[tuple[Version, bundle.Manifest, dict[str, Any]]]:
    """Every version of every model, its manifest, and its row in the list."""
    store = Store()
    for name in store.names():
        for version in store.versions(name):
            manifest = bundle.read(version.path)
            yield version, manifest, _row(store, version, manifest)


def _row(store: Store, version: Version, manifest: bundle.Manifest) -> dict[str, Any]:
    size = sum(
        file.stat().st_size for file in version.path.rglob("*") if file.is_file()
    )
    aliases = [
        alias
        for alias, number in (
            ("production", store.production(version.name)[-1:]),
            ("latest", [store.versions(version.name)[-1].number]),
        )
        if [version.number] == number
    ]
    return {
        "model": str(version),
        "family": manifest.family,
        "modality": manifest.modality,
        "created": manifest.created,
        "megabytes": size / 1e6,
        "alias": " ".join(aliases),
    }


def show(model: str) -> Card:
    """Where a model came from and how it scores.

    Args:
        model: a name, or name@version
    """
    store = Store()
    version = store.resolve(model)
    return Card(
        str(version),
        version.path,
        store.production(version.name)[-1:] == [version.number],
        bundle.read(version.path),
    )


def promote(model: str) -> Done:
    """Make a version the one that the bare name means.

    Args:
        model: name@version; a bare name promotes its newest version
    """
    version = Store().promote(model)
    return Done(
        (str(version),),
        say(
            f"{version.name} now means {version}.", f"{version.name} 现在指 {version}。"
        ),
    )


def rollback(model: str) -> Done:
    """Back to the version that was in production before.

    Args:
        model: a name
    """
    version = Store().rollback(model)
    return Done(
        (str(version),),
        say(
            f"{version.name} means {version} again.",
            f"{version.name} 已退回 {version}。",
        ),
    )


def remove(model: str) -> Done:
    """Remove one version (poet@1), or a model with all its versions (poet).

    Args:
        model: name@version, or a name
    """
    gone = tuple(str(version) for version in Store().remove(model))
    return Done(gone, say(f"Removed {', '.join(gone)}.", f"已删除 {'、'.join(gone)}。"))


def merge(
    models: tuple[str, ...],
    *,
    name: str,
    weights: tuple[float, ...] = (),
    method: Literal["linear", "svd", "ties"] = "linear",
    density: float = 0.5,
    rank: int = 0,
) -> Done:
    """Make one adapter out of several that were tuned from the same base.

    Args:
        models: tuned models of one base and task (name, name@version, or folder)
        name: What the new model is called.
        weights: How much of each, in their order (0.7 0.3); equal parts of 1 when left out.
        method: linear adds the updates up exactly; svd brings the sum to --rank; ties
            leaves out what is small or contradicts (arXiv:2306.01708).
        density: The share of each update that ties keeps.
        rank: Rank of the result for svd and ties; 0 for the sum of theirs.
    """
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    from miaobi.models import merging
    from miaobi.models.tuned import ADAPTER, ADAPTER_WEIGHTS, open_tuned
    from miaobi.models.weights import find

    check_name(name)
    found = [open_tuned(find(model)) for model in models]
    shares, labels = (
        weights or (1 / len(found),) * len(found),
        tuple(tuned.label for tuned in found),
    )
    how = (
        {"models": list(labels), "weights": list(shares), "method": method}
        | ({"density": density} if method == "ties" else {})
        | ({"rank": rank} if rank else {})
    )
    manifest = replace(
        found[0].manifest,
        parents=labels,
        metrics={},
        recipe={**found[0].manifest.recipe, "name": name, "merged": how},
    )

    def save(draft: Path) -> None:
        for file in found[0].folder.iterdir():
            if file.is_file() and file.name not in (
                ADAPTER,
                ADAPTER_WEIGHTS,
                bundle.MANIFEST,
                "log.jsonl",
                "README.md",
            ):
                (draft / file.name).write_bytes(file.read_bytes())
        merging.combine(found, shares, method, draft, density=density, rank=rank)

    with TemporaryDirectory() as folder:
        version = Store().add(bundle.write(Path(folder) / name, manifest, save), name)
    return Done(
        (str(version),),
        say(
            f"{version} = {_sum(shares, labels)} ({method}).",
            f"{version} = {_sum(shares, labels)}（{method}）。",
        ),
    )


def _sum(shares: tuple[float, ...], labels: tuple[str, ...]) -> str:
    return " + ".join(
        f"{share:g} × {label}" for share, label in zip(shares, labels, strict=True)
    )
