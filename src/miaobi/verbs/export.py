"""Export a model to another program, and check that it answers there as it does here.

After writing, the exported file is opened in llama.cpp and continues a few prompts
greedily; each token and its log-probability is compared with the native engine's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from miaobi.core.artifacts import Text
from miaobi.core.errors import BadInput, Conflict, Damaged, MissingPart, Unsupported
from miaobi.core.files import write_beside
from miaobi.core.language import say

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.engines.model import Model
    from miaobi.models.tuned import Tuned

DType = Literal["f16", "f32", "q8_0"]
"""Number format of the matrices in a GGUF."""
TOLERANCE: dict[DType, float] = {"f32": 0.01, "f16": 0.02, "q8_0": 0.3}
"""Largest difference of a log-probability, in nats, that the number format (and
llama.cpp's float16 cache) explains.
"""
TIE = 0.2
"""Under q8_0, tokens whose log-probabilities differ by less than this may swap."""
PROMPTS = ("The ", "春", "\n", "A long time ago", "我们")
COMPARED_TOKENS = 16
"""After each prompt, at most."""


@dataclass(frozen=True)
class Parity:
    """How the exported file compares with the native engine on the same prompts."""

    tokens: int
    """Compared, over all prompts."""
    largest: float
    """Largest |log-probability here - there|, in nats."""
    tolerance: float

    def __str__(self) -> str:
        return say(
            f"{self.tokens} greedy tokens agree with the native engine; log-probabilities within {self.largest:.1e} "
            f"nats (allowed {self.tolerance:g})",
            f"{self.tokens} 个贪心词元与原生引擎一致；对数概率相差不超过 {self.largest:.1e}（允许 {self.tolerance:g}）",
        )


@dataclass(frozen=True)
class Exported:
    """An exported file or folder."""

    model: str
    path: Path
    format: str
    """gguf, transformers, or peft for an adapter as it is."""
    dtype: str
    bytes: int
    parity: Parity | None
    architecture: str = ""
    """The class that a Transformers folder is for."""

    def __str__(self) -> str:
        size = f"{self.path}  {self.bytes / 1e6:,.1f} MB"
        if self.dtype:
            size += f"  {self.dtype}"
        lines = [size]
        if self.format == "gguf":
            lines.append(self._comparison())
        lines += ["", say("Use it:", "使用方法：")]
        if self.format == "gguf":
            lines += self._gguf_usage()
        elif self.format == "peft":
            lines += self._peft_usage()
        else:
            lines += self._transformers_usage()
        return "\n".join(lines)

    def _comparison(self) -> str:
        if self.parity:
            return str(self.parity)
        return say(
            "not compared: llama.cpp is not installed (pip install 'miaobi[engines]')",
            "未比对：没有安装 llama.cpp（pip install 'miaobi[engines]'）",
        )

    def _gguf_usage(self) -> list[str]:
        programs = say(
            "  LM Studio, Ollama, OpenVINO GenAI: open the file.",
            "  LM Studio、Ollama、OpenVINO GenAI：直接打开该文件。",
        )
        if self.dtype == "f32":
            programs = say(
                "  LM Studio, Ollama: open the file. OpenVINO GenAI reads f16 and q8_0 only.",
                "  LM Studio、Ollama：直接打开该文件。OpenVINO GenAI 只读取 f16 与 q8_0。",
            )
        return [
            f"  miaobi generate text --model {self.path} --prompt ...",
            f"  llama-cli -m {self.path}",
            programs,
        ]

    def _peft_usage(self) -> list[str]:
        module = f"{self.path.name}={self.path}"
        return [
            f'  PeftModel.from_pretrained(base, "{self.path}")',
            f"  vllm serve BASE --enable-lora --lora-modules {module}",
        ]

    def _transformers_usage(self) -> list[str]:
        if self.architecture.endswith("ForCausalLM"):
            return [
                f'  AutoModelForCausalLM.from_pretrained("{self.path}")',
                f"  vllm serve {self.path}",
            ]
        return [f'  {self.architecture}.from_pretrained("{self.path}")']


def export(
    model: str,
    *,
    to: Literal["gguf", "transformers"] = "gguf",
    dtype: DType = "f16",
    merge: bool = False,
    out: Path | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model in another program's format and compare its answers.

    Args:
        model: A name in the store ("poet", "poet@2"), or the folder of a model.
        to: gguf for llama.cpp, LM Studio, Ollama and OpenVINO GenAI; transformers for
            Transformers and vLLM.
        dtype: Number format of the matrices in a GGUF: f16, f32 (not for OpenVINO) or
            q8_0 (half the size of f16).
        merge: Merge a tuned model's adapter into its base's weights first. Without it,
            --to transformers exports the adapter alone, in PEFT's format.
        out: File or folder to write; exports/NAME by default.
        overwrite: Replace an existing file or folder at out.
    """
    from miaobi.models.weights import find

    weights = find(model)
    if weights.format not in ("bundle", "transformers"):
        raise Unsupported(
            say(
                f"{weights.name} is {weights.format} already; bundles and Transformers folders can be exported.",
                f"{weights.name} 已经是 {weights.format}；只有模型包与 Transformers 文件夹可以导出。",
            ),
            say(
                f"Use it as it is: {weights.location}",
                f"可直接使用：{weights.location}",
            ),
        )
    target = out or Path("exports") / _default_name(weights, to, dtype)
    if target.exists() and not overwrite:
        raise Conflict(
            say(f"{target} exists already.", f"{target} 已存在。"),
            say(
                "Choose another path with --out, or use --overwrite.",
                "请用 --out 给出其他位置，或使用 --overwrite。",
            ),
        )
    adapter = _adapter(weights, merge, to)
    if to == "gguf":
        return _to_gguf(weights, adapter, target, dtype)
    if adapter and merge:
        return _to_merged_folder(adapter, target)
    return _to_folder(weights, adapter, target)


def _default_name(weights: Weights, to: str, dtype: str) -> str:
    name = weights.name
    if weights.version:
        name += f"-{weights.version}"
    return name if to == "transformers" else f"{name}.{dtype}.gguf"


def _adapter(weights: Weights, merge: bool, to: str) -> Tuned | None:
    """Return the tuned model whose adapter is exported; None for whole weights.

    Raises:
        BadInput: there is no adapter to merge
        Unsupported: the format cannot hold it
    """
    from miaobi.models.merging import check_mergeable
    from miaobi.models.tuned import FAMILY, open_tuned

    tuned = open_tuned(weights) if weights.family == FAMILY else None
    if tuned is not None and to == "gguf" and not tuned.writes:
        task = tuned.task_name
        raise Unsupported(
            say(
                f"{weights.label} was tuned for {task}; a GGUF holds language models that are prompted as their "
                "base was.",
                f"{weights.label} 是为 {task} 微调的；GGUF 只适合与基础模型提问方式相同的语言模型。",
            ),
            f"miaobi export {weights.label} --to transformers",
        )
    if tuned is None or not tuned.adapter:
        if merge:
            raise BadInput(
                say(
                    f"{weights.label} holds whole weights: there is no adapter to merge.",
                    f"{weights.label} 是完整权重，没有需要合并的适配器。",
                ),
                say("Leave --merge out.", "请去掉 --merge。"),
            )
        return None
    if merge:
        check_mergeable(tuned)
    elif to == "gguf":
        base = tuned.manifest.data["base"]["name"]
        raise Unsupported(
            say(
                f"{weights.label} is an adapter of {base}; a GGUF holds whole weights.",
                f"{weights.label} 是 {base} 的适配器，而 GGUF 需要完整权重。",
            ),
            f"miaobi export {weights.label} --merge --to gguf",
        )
    return tuned


def _to_gguf(
    weights: Weights, adapter: Tuned | None, target: Path, dtype: DType
) -> Exported:
    from miaobi.models.convert import to_gguf

    whole = _merged(adapter, target) if adapter else nullcontext(weights.path)
    with whole as folder:
        to_gguf(folder, target, dtype)
    size = target.stat().st_size
    parity = _checked(weights, target, dtype)
    return Exported(weights.label, target, "gguf", dtype, size, parity)


@contextmanager
def _merged(tuned: Tuned, target: Path) -> Iterator[Path]:
    """Within: a temporary folder of the merged weights, beside the target."""
    from miaobi.models.merging import merge
    from miaobi.tune.saved import learner_of

    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".merging-") as folder:
        adapted = None if tuned.writes else learner_of(tuned).net
        yield merge(tuned, Path(folder) / tuned.weights.name, adapted)


def _to_merged_folder(tuned: Tuned, target: Path) -> Exported:
    with _merged(tuned, target) as folder:
        shutil.rmtree(target, ignore_errors=True)
        os.replace(folder, target)
    return Exported(
        model=tuned.label,
        path=target,
        format="transformers",
        dtype="",
        bytes=_size(target),
        parity=None,
        architecture=_architecture(target),
    )


def _to_folder(weights: Weights, adapter: Tuned | None, target: Path) -> Exported:
    """Copy a Transformers folder, or an adapter as it is."""
    label = weights.label
    architecture = _architecture(weights.path)
    if not architecture and not adapter:
        raise Unsupported(
            say(
                f"{label} is of a family ({weights.family}) that Transformers does not have.",
                f"{label} 属于 Transformers 不支持的模型类别（{weights.family}）。",
            ),
            say(
                f"Use it here, or copy the folder as it is: {weights.path}",
                f"请在此使用，或直接复制该文件夹：{weights.path}",
            ),
        )
    if target.exists():
        shutil.rmtree(target)
    with write_beside(target) as draft:
        shutil.copytree(weights.path, draft)
    return Exported(
        model=label,
        path=target,
        format="peft" if adapter else "transformers",
        dtype="",
        bytes=_size(target),
        parity=None,
        architecture=architecture,
    )


def _architecture(folder: Path) -> str:
    """Return the class that config.json names; empty where there is none."""
    from miaobi.models.weights import read_json

    path = folder / "config.json"
    if not path.exists():
        return ""
    architectures = read_json(path).get("architectures") or [""]
    return str(architectures[0])


def _size(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _checked(weights: Weights, target: Path, dtype: DType) -> Parity | None:
    """Compare; a file that answers differently is removed, so that nobody uses it."""
    try:
        return compare(weights, target, dtype)
    except MissingPart:
        return None
    except Damaged:
        target.unlink()
        raise


def compare(
    weights: Weights,
    exported: Path,
    dtype: DType,
    prompts: Sequence[str] = PROMPTS,
    length: int = COMPARED_TOKENS,
) -> Parity:
    """Compare greedy answers here and in llama.cpp.

    Args:
        weights: the model, for the native engine
        exported: the GGUF file
        dtype: number format of its matrices
        prompts: texts to continue
        length: tokens after each prompt, at most

    Raises:
        Damaged: the answers differ more than the number format explains
        MissingPart: llama.cpp is not installed
    """
    from miaobi.engines.load import load, open_engine
    from miaobi.engines.model import Model

    tolerance = TOLERANCE[dtype]
    tie = TIE if dtype == "q8_0" else tolerance
    count, largest = 0, 0.0
    native = Model(weights, "native", open_engine(weights, "native", 1, {}))
    with native, load(exported, engine="llamacpp") as llamacpp:
        length = min(length, native.context_length // 2)
        for prompt in prompts:
            ours = _greedy(native, prompt, length)
            theirs = _greedy(llamacpp, prompt, length)
            tokens, difference = agreement(ours, theirs, tie)
            if tokens < 0 or difference > tolerance:
                raise _different(exported, prompt, ours, theirs, difference)
            count += tokens
            largest = max(largest, difference)
    return Parity(count, largest, tolerance)


def _greedy(model: Model, prompt: str, length: int) -> Text:
    texts: list[Text] = model.generate(
        prompt, raw=True, temperature=0.0, max_new_tokens=length, logprobs=2, seed=0
    )
    return texts[0]


def agreement(ours: Text, theirs: Text, tie: float) -> tuple[int, float]:
    """Return (tokens that agree, largest difference of their log-probabilities).

    The count is -1 when the answers differ. They may differ where our two most probable
    tokens are a near tie: from there on they answer different contexts.
    """
    largest = 0.0
    pairs = zip(ours.logprobs, theirs.logprobs, strict=False)
    for position, (mine, other) in enumerate(pairs):
        if mine.token == other.token:
            largest = max(largest, abs(mine.logprob - other.logprob))
            continue
        if "\ufffd" in mine.token:
            # llama.cpp reports nothing of tokens that are parts of a character.
            return position, largest
        other_logprob = dict(mine.top_logprobs).get(other.token)
        is_tie = other_logprob is not None and mine.logprob - other_logprob <= tie
        return (position if is_tie else -1), largest
    return min(len(ours.logprobs), len(theirs.logprobs)), largest


def _different(
    exported: Path, prompt: str, ours: Text, theirs: Text, difference: float
) -> Damaged:
    return Damaged(
        say(
            f"{exported} does not answer as the model does: after {prompt!r}, "
            f"{theirs.text!r} instead of {ours.text!r} (difference {difference:.3g} nats).",
            f"{exported} 的回答与原模型不同：在 {prompt!r} 之后得到 "
            f"{theirs.text!r}，而原模型为 {ours.text!r}（相差 {difference:.3g}）。",
        ),
        say(
            "The file was removed. Export with --to transformers, and report this as a defect.",
            "该文件已删除。请用 --to transformers 导出，并将此作为缺陷报告。",
        ),
    )
