"""Names of models: each resolver knows one kind of name.

They are asked in the order of the table, from what is here to what is fetched. Another
package resolves names under a prefix, which is the name of its entry point:

    [project.entry-points."miaobi.resolvers"]
    support = "their_package.names"      # support/shop, support/bank, ...
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from miaobi.core.engine import Weights
from miaobi.core.registry import Registry


class Resolver(Protocol):
    """A module that leads from names to weights."""

    def resolve(self, name: str) -> Weights | None:
        """Return the weights called `name`; None where it is no name of this kind.

        Raises what is wrong with the files of one that is.
        """
        ...

    def names(self) -> Iterable[str]:
        """Return the names that can be listed, for lists and for errors."""
        ...


resolvers: Registry[Resolver] = Registry(
    "resolvers",
    {
        "store": "miaobi.models.resolvers.store",
        "packs": "miaobi.models.resolvers.packs",
        "path": "miaobi.models.resolvers.path",
        "url": "miaobi.models.resolvers.url",
        "hub": "miaobi.models.resolvers.hub",
    },
)


def resolver_of(name: str) -> Resolver | None:
    """Return the resolver of another package whose prefix `name` begins with."""
    prefix, slash, _ = name.partition("/")
    if slash and prefix in resolvers.added():
        return resolvers.get(prefix)
    return None


def added_names() -> list[str]:
    """Return the names that the resolvers of other packages list, in order."""
    return [
        name for prefix in resolvers.added() for name in resolvers.get(prefix).names()
    ]


def listed_names() -> list[str]:
    """Return every name that a resolver lists."""
    built_in = [
        name
        for resolver in resolvers.built_in()
        for name in resolvers.get(resolver).names()
    ]
    return [*built_in, *added_names()]
