"""Take a model to another program, and prove that it answers there as it answers here.

After writing, the exported file is opened in llama.cpp and asked to continue a few
prompts greedily; each token and its log-probability is set beside the native engine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from miaobi.core import bundle
from miaobi.core.artifacts import Text
from miaobi.core.errors import BadInput, Conflict, Damaged, MissingPart, Unsupported
from miaobi.core.language import say

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.models.tuned import Tuned

TOLERANCE = {"f32": 0.01, "f16": 0.02, "q8_0": 0.3}
"""Largest difference of a log-probability, in nats, that the number format (and
llama.cpp's float16 cache) explains.
"""
TIE = 0.2
"""Two tokens whose log-probabilities lie nearer than this may change places under q8_0."""
PROMPTS = ("The ", "春", "\n", "A long time ago", "我们")


@dataclass(frozen=True)
class Parity:
    """How the exported file compares with the native engine, greedily, on the same prompts."""

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
        checked = (
            str(self.parity)
            if self.parity
            else say(
                "not compared: llama.cpp is not installed (pip install 'miaobi[engines]')",
                "未比对：没有安装 llama.cpp（pip install 'miaobi[engines]'）",
            )
        )
        lines = [
            f"{self.path}  {self.bytes / 1e6:,.1f} MB"
            + (f"  {self.dtype}" if self.dtype else "")
        ]
        if self.format == "gguf":
            lines += [
                checked,
                "",
                say("Use it:", "使用方法："),
                f"  miaobi generate text --model {self.path} --prompt ...",
                f"  llama-cli -m {self.path}",
                say(
                    "  LM Studio, Ollama, OpenVINO GenAI: open the file."
                    if self.dtype != "f32"
                    else "  LM Studio, Ollama: open the file. OpenVINO GenAI reads f16 and q8_0 only.",
                    "  LM Studio、Ollama、OpenVINO GenAI：直接打开该文件。"
                    if self.dtype != "f32"
                    else "  LM Studio、Ollama：直接打开该文件。OpenVINO GenAI 只读取 f16 与 q8_0。",
                ),
            ]
        elif self.format == "peft":
            lines += [
                "",
                say("Use it:", "使用方法："),
                f'  PeftModel.from_pretrained(base, "{self.path}")',
                f"  vllm serve BASE --enable-lora --lora-modules {self.path.name}={self.path}",
            ]
        else:
            writes = self.architecture.endswith("ForCausalLM")
            lines += [
                "",
                say("Use it:", "使用方法："),
                f'  {"AutoModelForCausalLM" if writes else self.architecture}.from_pretrained("{self.path}")',
                *([f"  vllm serve {self.path}"] if writes else []),
            ]
        return "\n".join(lines)


def export(
    model: str,
    *,
    to: Literal["gguf", "transformers"] = "gguf",
    dtype: Literal["f16", "f32", "q8_0"] = "f16",
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
        merge: Put a tuned model's adapter into its base's weights first. Without it,
            --to transformers gives the adapter as PEFT keeps it.
        out: File or folder to write; exports/NAME by default.
        overwrite: Replace what stands at out.
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
    stem = weights.name + (f"-{weights.version}" if weights.version else "")
    target = out or Path("exports") / (
        stem if to == "transformers" else f"{stem}.{dtype}.gguf"
    )
    if target.exists() and not overwrite:
        raise Conflict(
            say(f"{target} exists already.", f"{target} 已存在。"),
            say(
                "Give another place with --out, or --overwrite.",
                "请用 --out 给出其他位置，或使用 --overwrite。",
            ),
        )
    adapter = _adapter(weights, merge, to)
    if to == "transformers":
        return (
            _merged_folder(adapter, target)
            if adapter and merge
            else _folder(weights, adapter, target)
        )
    from miaobi.models.convert import to_gguf

    with _merged(adapter, target) if adapter else nullcontext(weights.path) as folder:
        to_gguf(folder, target, dtype)
    return Exported(
        weights.label,
        target,
        "gguf",
        dtype,
        target.stat().st_size,
        _checked(weights, target, dtype),
    )


def _adapter(weights: Weights, merge: bool, to: str) -> Tuned | None:
    """The tuned model whose adapter is to be merged or taken along; None for whole
    weights. Raises BadInput, Unsupported.
    """
    from miaobi.models.merging import check_mergeable
    from miaobi.models.tuned import FAMILY, open_tuned

    tuned = open_tuned(weights) if weights.family == FAMILY else None
    if tuned is not None and to == "gguf" and not tuned.writes:
        task = tuned.manifest.recipe["task"]
        raise Unsupported(
            say(
                f"{weights.label} was tuned for {task}; a GGUF holds language models that are asked as their base was.",
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
        name = tuned.manifest.data["base"]["name"]
        raise Unsupported(
            say(
                f"{weights.label} is an adapter beside {name}; a GGUF holds whole weights.",
                f"{weights.label} 是 {name} 的适配器，而 GGUF 需要完整权重。",
            ),
            f"miaobi export {weights.label} --merge --to gguf",
        )
    return tuned


@contextmanager
def _merged(tuned: Tuned, target: Path) -> Iterator[Path]:
    """A folder of the merged weights, beside the target, for as long as it is needed."""
    from tempfile import TemporaryDirectory

    from miaobi.models.merging import merge
    from miaobi.tune.saved import learner_of

    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".merging-") as folder:
        adapted = None if tuned.writes else learner_of(tuned).net
        yield merge(tuned, Path(folder) / tuned.weights.name, adapted)


def _merged_folder(tuned: Tuned, target: Path) -> Exported:
    import os
    import shutil

    with _merged(tuned, target) as folder:
        shutil.rmtree(target, ignore_errors=True)
        os.replace(folder, target)
    return Exported(
        tuned.label,
        target,
        "transformers",
        "",
        _bytes(target),
        None,
        _architecture(target) or "",
    )


def _architecture(folder: Path) -> str | None:
    from miaobi.models.weights import read_json

    config = folder / "config.json"
    return (
        next(iter(read_json(config).get("architectures") or []), None)
        if config.exists()
        else None
    )


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _folder(weights: Weights, adapter: Tuned | None, target: Path) -> Exported:
    import shutil

    from miaobi.core.files import write_beside

    label, known = weights.label, _architecture(weights.path)
    if not known and not adapter:
        raise Unsupported(
            say(
                f"{label} is of a family ({weights.family}) that Transformers does not know.",
                f"{label} 属于 Transformers 不支持的模型类别（{weights.family}）。",
            ),
            say(
                f"Use it here, or copy the folder as it is: {weights.path}",
                f"请在此使用，或直接复制该文件夹：{weights.path}",
            ),
        )
    if weights.format == "bundle":
        bundle.read(weights.path)
    if target.exists():
        shutil.rmtree(target)
    with write_beside(target) as draft:
        shutil.copytree(weights.path, draft)
    return Exported(
        label,
        target,
        "peft" if adapter else "transformers",
        "",
        _bytes(target),
        None,
        known or "",
    )


def _checked(weights: Weights, target: Path, dtype: str) -> Parity | None:
    """Compare; a file that does not answer alike is removed, so that nobody uses it."""
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
    dtype: str,
    prompts: Sequence[str] = PROMPTS,
    length: int = 16,
) -> Parity:
    """Greedy answers of `weights` natively and of `exported` in llama.cpp. Raises
    Damaged when they differ too much.
    """
    from miaobi.engines.load import load, open_engine
    from miaobi.engines.model import Model

    native = Model(weights, "native", open_engine(weights, "native", 1, {}))
    count, largest = 0, 0.0
    with native, load(exported, engine="llamacpp") as other:
        length = min(length, native.context_length // 2)
        for prompt in prompts:
            ours, theirs = (
                one.generate(
                    prompt,
                    raw=True,
                    temperature=0.0,
                    max_new_tokens=length,
                    logprobs=2,
                    seed=0,
                )[0]
                for one in (native, other)
            )
            tokens, apart = agreement(
                ours, theirs, TIE if dtype == "q8_0" else TOLERANCE[dtype]
            )
            if tokens < 0 or apart > TOLERANCE[dtype]:
                raise _different(exported, prompt, ours, theirs, apart)
            count, largest = count + tokens, max(largest, apart)
    return Parity(count, largest, TOLERANCE[dtype])


def agreement(ours: Text, theirs: Text, tie: float) -> tuple[int, float]:
    """(tokens that agree, largest difference of their log-probabilities); -1 tokens
    when the answers part.

    They may part where our two likeliest tokens are a near tie: from there on they
    answer different contexts.
    """
    largest = 0.0
    for place, (mine, other) in enumerate(
        zip(ours.logprobs, theirs.logprobs, strict=False)
    ):
        if "\ufffd" in mine.token and mine.token != other.token:
            return (
                place,
                largest,
            )  # llama.cpp reports nothing of tokens that are parts of a character
        if mine.token != other.token:
            top_logprobs = dict(mine.top_logprobs)
            close = (
                other.token in top_logprobs
                and mine.logprob - top_logprobs[other.token] <= tie
            )
            return (place if close else -1), largest
        largest = max(largest, abs(mine.logprob - other.logprob))
    return min(len(ours.logprobs), len(theirs.logprobs)), largest


def _different(
    exported: Path, prompt: str, ours: Text, theirs: Text, apart: float
) -> Damaged:
    return Damaged(
        say(
            f"{exported} does not answer as the model does: after {prompt!r}, "
            f"{theirs.text!r} instead of {ours.text!r} ({apart:.3g} nats "
            "apart).",
            f"{exported} 的回答与原模型不同：在 {prompt!r} 之后得到 "
            f"{theirs.text!r}，而原模型为 {ours.text!r}（相差 {apart:.3g}）。",
        ),
        say(
            "The file was removed. Export with --to transformers, and report this as a defect.",
            "该文件已删除。请用 --to transformers 导出，并将此作为缺陷报告。",
        ),
    )
