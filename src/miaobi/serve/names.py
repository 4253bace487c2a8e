"""The names of the models of this server, and the weights they stand for.

A name is one in the store ("poet", "poet@2", "poet@production"), a starter pack that
was fetched, or an alias given with --model ALIAS=PATH. It is never a path, a URL or a
hub id: those stand on the command line only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from miaobi.core.engine import Weights
from miaobi.core.errors import Damaged, MiaobiError, NotFound, nearest
from miaobi.core.language import say
from miaobi.core.store import NAME, Store, check_name
from miaobi.data import packs
from miaobi.models import weights as files
from miaobi.models.resolvers import added_names, resolver_of
from miaobi.serve import inputs
from miaobi.serve.settings import Settings

STATE_SECONDS = 5.0
"""How long the answer of a store at a URL is taken for its state."""


@dataclass(frozen=True)
class Entry:
    """What a name in the store was found to be."""

    state: Any
    """What `Store.state` said of the model. After a promotion the entry is out of date."""
    weights: Weights


class Names:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._cached: dict[str, Entry] = {}
        self._packs = dict[str, Weights]()
        self._states = dict[str, tuple[float, Any]]()
        """Of models in a store at a URL: when it was asked, and its answer."""

    @cached_property
    def _configured(self) -> Mapping[str, Weights | None]:
        """Names of --model; with weights for aliases. Raises NotFound, BadInput or
        Damaged for a path that leads nowhere.
        """
        configured = dict[str, Weights | None]()
        for item in self.settings.models:
            name, equals, path = item.partition("=")
            if equals:
                weights = files.find(path)
                configured[check_name(name)] = replace(weights, name=name, version="")
            else:
                configured[name] = None
        return configured

    def fetch(self) -> None:
        """Fetch the packs among --model, and raise now for a name that leads nowhere."""
        for name in self._configured:
            if name in packs.catalogue() and not Store().versions(name):
                packs.path(name)
            self.find(name)

    def find(self, name: str) -> Weights:
        """Return the weights of a name. Raise NotFound with the nearest names."""
        try:
            return self._find(name)
        except NotFound as error:
            error.field = "model"
            raise

    def _find(self, name: str) -> Weights:
        reference, _, version = name.partition("@")
        weights = self._configured.get(name)
        if weights is not None:
            return weights
        if NAME.fullmatch(reference) and (not version or NAME.fullmatch(version)):
            store = Store()
            with contextlib.suppress(OSError):
                state = self._state(store, reference)
                entry = self._cached.get(name)
                is_current = entry is not None and entry.state == state
                if not is_current and store.versions(reference):
                    entry = Entry(state, self._of_store(store, name))
                    self._cached[name] = entry
                if entry is not None and entry.state == state:
                    return entry.weights
            if not version and self._served(reference) and self._installed(reference):
                return self._of_pack(reference)
        added = self._of_another_package(name)
        if added is not None:
            return added
        raise NotFound(
            say(
                f"There is no model named {name[:200]!r}.",
                f"没有名为 {name[:200]!r} 的模型。",
            ),
            self._remedy(name),
        )

    def _of_another_package(self, name: str) -> Weights | None:
        """The weights of a name such as "support/shop", where another package knows it."""
        resolver = resolver_of(name)
        if resolver is None or not self._served(name):
            return None
        return resolver.resolve(name)

    def _state(self, store: Store, name: str) -> Any:
        """What changes with a model's versions and aliases; None for an unknown name.

        A store at a URL is asked at most every STATE_SECONDS.
        """
        if isinstance(store.root, Path):
            return store.state(name)
        checked_at, state = self._states.get(name, (-STATE_SECONDS, None))
        if time.monotonic() - checked_at >= STATE_SECONDS:
            state = store.state(name)
            self._states[name] = (time.monotonic(), state)
        return state

    def _of_store(self, store: Store, name: str) -> Weights:
        version = store.resolve(name)
        weights = files.of_bundle(version.location, version.name, str(version.number))
        parents = weights.manifest.parents if weights.manifest else ()
        names = [version.name, *(parent.partition("@")[0] for parent in parents)]
        if not any(map(self._served, names)):
            raise NotFound(
                say(
                    f"This server does not serve {name!r}.",
                    f"此服务器不提供 {name!r}。",
                ),
                say(
                    f"Start it with --model {version.name}.",
                    f"请以 --model {version.name} 启动。",
                ),
            )
        return weights

    def _served(self, name: str) -> bool:
        """Whether it is among --model, or everything is served. What was tuned from a
        served model is served too.
        """
        return not self._configured or any(
            name == configured.partition("@")[0] for configured in self._configured
        )

    def _of_pack(self, name: str) -> Weights:
        if name not in self._packs:
            self._packs[name] = files.find(name)
        return self._packs[name]

    def _installed(self, name: str) -> bool:
        return name in self._packs or (name in makers() and packs.installed(name))

    def _remedy(self, name: str) -> str:
        if name in makers() and self._served(name):
            return say(
                f"Fetch it on the server: miaobi data fetch {name}",
                f"请在服务器上获取：miaobi data fetch {name}",
            )
        return nearest(name[:200], self.names()) or say(
            "This server has no model yet: miaobi data fetch smollm2",
            "此服务器还没有模型：miaobi data fetch smollm2",
        )

    def names(self) -> list[str]:
        """Every name that answers, without versions."""
        served_names = {
            name for name in self._configured if self._configured[name] is not None
        } | {name for name in makers() if self._served(name) and packs.installed(name)}
        served_names |= set(filter(self._served, added_names()))
        for name in Store().names():
            with contextlib.suppress(MiaobiError):
                self.find(name)
                served_names.add(name)
        return sorted(served_names | {name for name in self._configured if "@" in name})

    def damaged(self) -> list[str]:
        """Return what is wrong with each model of the store that cannot be served."""
        problems = list[str]()
        for name in filter(self._served, Store().names()):
            try:
                self.find(name)
            except Damaged as error:
                problems.append(f"{name}: " + error.sentence)
            except MiaobiError:  # a name without a version yet
                continue
        return problems

    def facts(self, name: str) -> dict[str, Any]:
        """Return the object of a model in /v1/models. Raise NotFound."""
        weights = self.find(name)
        facts: dict[str, Any] = {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "miaobi",
            "modality": weights.modality,
            "version": weights.label,
            "chats": inputs.chats(weights),
            "inputs": inputs.inputs(weights),
        }
        manifest = weights.manifest
        if manifest is not None:
            facts |= {
                "family": manifest.family,
                "parents": list(manifest.parents),
                "owned_by": "local",
                "created": int(datetime.fromisoformat(manifest.created).timestamp())
                if manifest.created
                else 0,
            }
        elif weights.path.exists():
            facts["created"] = int(weights.path.stat().st_mtime)
        return facts


def makers() -> list[str]:
    """The starter packs that answer: models that make something, and the base that
    gives embeddings.
    """
    return [
        name
        for name, pack in packs.catalogue().items()
        if pack.kind == "model" and pack.format != "part"
    ]
