"""The `python` source: Python files of a folder, or those that are on this machine.

The path `environment` is the standard library and the packages of the environment that
miaobi runs in. Each package is a work: its files go to one split, and its version and
licence are kept. Left out are tests, what was generated, and what this Python does not
parse.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path, PurePath

from miaobi.core.errors import BadInput, NotFound
from miaobi.core.language import say
from miaobi.data.cache import content_hash
from miaobi.data.text.documents import Document, Work

ENVIRONMENT = "environment"
SHORTEST, LONGEST = 300, 60_000
"""Characters of a file."""
MOST_OF_ONE = 400_000
"""Characters of a package, so that none outweighs the others."""
LONGEST_LINE = 200
"""Characters of a line that somebody wrote."""
NOT_READ = frozenset({"test", "tests", "testing", "_vendor", "site-packages"})
"""Folders."""
LICENCE = "License :: "
"""How a classifier that names a licence begins (pypi.org/classifiers)."""
LONGEST_LICENCE = 60
"""Characters of a licence's name; some packages put the whole text there."""


class PythonSources:
    """Yields a Document for each file; the registered reader."""

    def __call__(self, path: str) -> Iterator[Document]:
        """Yield the files of a folder or of the environment, package by package.

        Raises NotFound for a folder that is not there, BadInput for one without
        Python files.
        """
        is_empty = True
        for work, files in self._works(path):
            left = MOST_OF_ONE
            for file in sorted(files, key=_rank):
                text = _source(file)
                if text and len(text) <= left:
                    left -= len(text)
                    is_empty = False
                    yield Document(text, meta={"file": file.name}, work=work)
        if is_empty:
            raise BadInput(
                say(f"{path} holds no Python files.", f"{path} 中没有 Python 文件。"),
                say(
                    f"Name a folder of sources, or {ENVIRONMENT} for the packages installed here.",
                    f"请指定源代码文件夹，或用 {ENVIRONMENT} 表示本机已安装的包。",
                ),
            )

    def identity(self, path: str, root: Path) -> str:
        """Return a digest of the files of a folder, or of the names and versions of
        the environment's packages.
        """
        if path != ENVIRONMENT:
            folder = _folder(path)
            return content_hash(folder, _python_files(folder), root)
        names = [f"{work.name} {work.version}" for work, _ in self._works(path)]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    def _works(self, path: str) -> Iterator[tuple[Work, Iterable[Path]]]:
        """Each package with its files, in the order of the names."""
        if path == ENVIRONMENT:
            library = Path(sysconfig.get_paths()["stdlib"])
            work = Work("Python", platform.python_version(), "PSF-2.0")
            yield work, _python_files(library)
            yield from _installed()
            return
        folder = _folder(path)
        by_package = dict[str, list[Path]]()
        for file in _python_files(folder):
            package = file.relative_to(folder).parts[0]
            by_package.setdefault(package, []).append(file)
        for package, files in by_package.items():
            yield Work(package), files


read = PythonSources()


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise NotFound(
            say(f"There is no folder {path}.", f"文件夹 {path} 不存在。"),
            say(
                f"Name a folder of Python sources, or {ENVIRONMENT}.",
                f"请指定 Python 源代码文件夹，或 {ENVIRONMENT}。",
            ),
        )
    return folder


def _python_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*.py")
        if not _is_left_out(file.relative_to(folder))
    )


def _rank(file: Path) -> bytes:
    """A file's position in its package: by chance, and the same everywhere."""
    name = f"{file.parent.name}/{file.name}"
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape")).digest()


def _is_left_out(file: PurePath) -> bool:
    return not NOT_READ.isdisjoint(file.parts) or file.name.startswith("test_")


def _installed() -> Iterator[tuple[Work, Sequence[Path]]]:
    """The packages of this environment with their Python files."""
    by_name = {
        found.metadata["Name"].lower(): found for found in metadata.distributions()
    }
    for name in sorted(by_name):
        found = by_name[name]
        files = [
            Path(str(file.locate()))
            for file in found.files or ()
            if file.suffix == ".py" and not _is_left_out(file)
        ]
        yield Work(name, found.version, _licence(found.metadata)), sorted(files)


def _licence(about: metadata.PackageMetadata) -> str:
    """What a package says of its licence: the SPDX expression, a classifier, or the
    field in free form (Core metadata specifications).
    """
    values = about.json
    expression = str(values.get("license_expression", ""))
    if expression:
        return expression
    named = [
        str(entry).rpartition(" :: ")[2]
        for entry in values.get("classifier", ())
        if str(entry).startswith(LICENCE)
    ]
    if named:
        return ", ".join(named)
    free = str(values.get("license", "")).strip()
    return free if len(free) <= LONGEST_LICENCE else free.splitlines()[0]


def _source(file: Path) -> str:
    """The text of a file that somebody wrote and this Python parses; "" for others."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    if not SHORTEST <= len(text) <= LONGEST or "\0" in text:
        return ""
    if max(map(len, text.splitlines())) > LONGEST_LINE:
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            ast.parse(text)
        except (SyntaxError, RecursionError):
            return ""
    return text
