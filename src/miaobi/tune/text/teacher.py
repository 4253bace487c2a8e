"""A teacher's answers, asked for once and saved on disk, so that a run that was stopped
does not ask again.

One file for each teacher and length of answer, under $MIAOBI_HOME/teachers: a line of
JSON for each answer, appended as it arrives. How a model is opened is not known here:
whoever runs a task says so, with `opened_by`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from miaobi.core.errors import Unsupported
from miaobi.core.files import explain_refusal, home, locked
from miaobi.core.language import say
from miaobi.data.progress import bar
from miaobi.models.weights import find
from miaobi.tune.text.prompts import Question

POLL_SECONDS = 1
"""Between two updates of the progress."""


class Writer(Protocol):
    """An opened model that writes; threads may share it."""

    def generate(self, ask: Any, **controls: Any) -> Sequence[Any]:
        """Return answers, each with its `text`."""
        ...

    def close(self) -> None: ...


class Opener(Protocol):
    """Opens a model by its name, such as `miaobi.load`."""

    def __call__(self, name: str, *, streams: int, **options: Any) -> Writer: ...


_opener = ContextVar[Opener | None]("opener", default=None)


@contextmanager
def opened_by(opener: Opener) -> Iterator[None]:
    """Within, teachers are opened by `opener`."""
    token = _opener.set(opener)
    try:
        yield
    finally:
        _opener.reset(token)


def current_opener() -> Opener | None:
    """Return what opens teachers here; None outside of `opened_by`."""
    return _opener.get()


class Teacher:
    """A model that answers questions, greedily, and whose answers are saved.

    Args:
        name: a model as `miaobi.load` takes it: a starter pack, a path, or the URL of a
            server.
        opener: opens it, once there is a question without an answer.
        served: its name on a server that offers several.
        max_new_tokens: of an answer.
        streams: questions that it is asked at the same time.
    """

    def __init__(
        self,
        name: str,
        opener: Opener | None,
        served: str = "",
        max_new_tokens: int = 128,
        streams: int = 4,
    ) -> None:
        self.name = name
        self.opener = opener
        self.served = served
        self.max_new_tokens = max_new_tokens
        self.streams = streams
        self.path = self._answers_path()
        self._answers = _read_answers(self.path)
        self._model: Writer | None = None

    def _answers_path(self) -> Path:
        """Return where the answers are. Raises Unsupported for a model of pictures."""
        weights = find(self.name)
        if weights.modality != "text":
            raise Unsupported(
                say(
                    f"{self.name} makes {weights.modality}; a teacher writes.",
                    f"{self.name} 生成 {weights.modality}；教师模型需能写作。",
                ),
                say("Choose a language model.", "请选择语言模型。"),
            )
        identity = json.dumps(
            [
                weights.format,
                weights.location,
                weights.version,
                self.served,
                self.max_new_tokens,
            ]
        )
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return home() / "teachers" / f"{digest}.jsonl"

    def __getitem__(self, question: Question) -> str:
        """Return the teacher's answer; it is asked now where there is none yet."""
        if _key(question) not in self._answers:
            self.ask([question])
        return self._answers[_key(question)]

    def missing(self, questions: Iterable[Question]) -> list[Question]:
        """Return those without an answer, each once."""
        unanswered = {
            _key(question): question
            for question in questions
            if _key(question) not in self._answers
        }
        return list(unanswered.values())

    def ask(self, questions: Sequence[Question], progress: bool = False) -> None:
        """Have these answered, `streams` at a time.

        What was answered before an error or Ctrl-C is saved.
        """
        missing = self.missing(questions)
        if not missing:
            return
        with explain_refusal(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        model = self._open()
        label = say(f"{self.name} answers", f"{self.name} 正在回答")
        with bar(progress) as show, ThreadPoolExecutor(self.streams) as pool:
            pending = {
                pool.submit(self._answer, model, question) for question in missing
            }
            try:
                while pending:
                    done, pending = wait(
                        pending, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION
                    )
                    for future in done:
                        future.result()
                    show(label, len(missing) - len(pending), len(missing))
            finally:
                for future in pending:
                    future.cancel()

    def _open(self) -> Writer:
        if self._model is None:
            if self.opener is None:
                raise RuntimeError(f"nothing opens {self.name}: use opened_by")
            options = {"model": self.served} if self.served else {}
            self._model = self.opener(self.name, streams=self.streams, **options)
        return self._model

    def _answer(self, model: Writer, question: Question) -> None:
        answers = model.generate(
            question, temperature=0, max_new_tokens=self.max_new_tokens, seed=0
        )
        answer = answers[0].text.strip()
        record = {"prompt": question, "answer": answer}
        _append(self.path, json.dumps(record, ensure_ascii=False))
        self._answers[_key(question)] = answer

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None


def _key(question: Question) -> str:
    return json.dumps(question, ensure_ascii=False, sort_keys=True)


def _read_answers(path: Path) -> dict[str, str]:
    """Return answers by question, without a last line that a power loss cut off."""
    if not path.exists():
        return {}
    answers = dict[str, str]()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        answers[_key(record["prompt"])] = record["answer"]
    return answers


def _append(path: Path, line: str) -> None:
    """Append a line; one that was cut off before stays alone on its line."""
    with explain_refusal(path), locked(path), path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        is_torn = end > 0 and file.read(1) != b"\n"
        file.seek(end)
        start = b"\n" if is_torn else b""
        file.write(start + line.encode() + b"\n")
