"""A teacher's answers, asked for once and kept on disk, so that a run that was stopped
does not ask again.

One file for each teacher and length of answer, under $MIAOBI_HOME/teachers: a line of
JSON for each answer, appended as it arrives.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from miaobi.core.errors import Unsupported
from miaobi.core.files import explain_refusal, home, locked
from miaobi.core.language import say
from miaobi.data.progress import bar
from miaobi.engines.load import Model, load
from miaobi.models.weights import find
from miaobi.tune.text.prompts import Question


class Teacher:
    """name: a model as `miaobi.load` takes it, such as a starter pack, a path, or the
    URL of a server; served: its name there, where the server offers several. Answers
    are greedy, of at most `max_new_tokens`.
    """

    def __init__(
        self, name: str, served: str = "", max_new_tokens: int = 128, streams: int = 4
    ) -> None:
        self.name, self.served, self.max_new_tokens, self.streams = (
            name,
            served,
            max_new_tokens,
            streams,
        )
        weights = find(name)
        if weights.modality != "text":
            raise Unsupported(
                say(
                    f"{name} makes {weights.modality}; a teacher writes.",
                    f"{name} 生成 {weights.modality}；教师模型需能写作。",
                ),
                say("Choose a language model.", "请选择语言模型。"),
            )
        identity = json.dumps(
            [weights.format, weights.location, weights.version, served, max_new_tokens]
        )
        self.path = (
            home()
            / "teachers"
            / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.jsonl"
        )
        self._kept = self._read()
        self._model: Model | None = None

    def _read(self) -> dict[str, str]:
        """Answers by question. A last line that was cut off by a power loss is asked for again."""
        if not self.path.exists():
            return {}
        kept = dict[str, str]()
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            kept[_key(record["prompt"])] = record["answer"]
        return kept

    def __getitem__(self, question: Question) -> str:
        """The teacher's answer, asked for now where it is not kept."""
        if _key(question) not in self._kept:
            self.ask([question])
        return self._kept[_key(question)]

    def missing(self, questions: Iterable[Question]) -> list[Question]:
        """Those not answered yet, each once."""
        return list(
            {
                _key(question): question
                for question in questions
                if _key(question) not in self._kept
            }.values()
        )

    def ask(self, questions: Sequence[Question], shown: bool = False) -> None:
        """Have these answered, `streams` at a time. What was answered before an error
        or Ctrl-C is kept.
        """
        asked = self.missing(questions)
        if not asked:
            return
        with explain_refusal(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._model is None:
            self._model = load(
                self.name,
                streams=self.streams,
                **({"model": self.served} if self.served else {}),
            )
        with bar(shown) as progress, ThreadPoolExecutor(self.streams) as pool:
            rest = {
                pool.submit(self._answer, self._model, question) for question in asked
            }
            try:
                while rest:
                    done, rest = wait(rest, timeout=1, return_when=FIRST_EXCEPTION)
                    for answer in done:
                        answer.result()
                    progress(
                        say(f"{self.name} answers", f"{self.name} 正在回答"),
                        len(asked) - len(rest),
                        len(asked),
                    )
            finally:
                for answer in rest:
                    answer.cancel()

    def _answer(self, model: Model, question: Question) -> None:
        found = model.generate(
            question, temperature=0, max_new_tokens=self.max_new_tokens, seed=0
        )[0].text.strip()
        record = json.dumps({"prompt": question, "answer": found}, ensure_ascii=False)
        with (
            explain_refusal(self.path),
            locked(self.path),
            self.path.open("r+b") as file,
        ):
            # A line that was cut off stays alone on its line.
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 1, 0))
            torn = end > 0 and file.read(1) != b"\n"
            file.seek(end)
            file.write((b"\n" if torn else b"") + record.encode() + b"\n")
        self._kept[_key(question)] = found

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None


def _key(question: Question) -> str:
    return json.dumps(question, ensure_ascii=False, sort_keys=True)
