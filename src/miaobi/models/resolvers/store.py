"""The models in the store: poet, poet@2, poet@production."""

from __future__ import annotations

from miaobi.core.engine import Weights
from miaobi.core.store import NAME, Store
from miaobi.models.weights import of_bundle


def resolve(name: str) -> Weights | None:
    reference, _, _ = name.partition("@")
    store = Store()
    if not NAME.fullmatch(reference) or not store.versions(reference):
        return None
    version = store.resolve(name)
    return of_bundle(version.location, version.name, str(version.number))


def names() -> list[str]:
    return Store().names()
