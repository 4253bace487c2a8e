"""Export a model to another program, and check that it answers there as it does here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from miaobi.core.errors import BadInput, Conflict, NotFound, Unsupported
from miaobi.core.language import say
from miaobi.models.convert.quantise import Dtype
from miaobi.verbs.export.exported import Exported as Exported

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.models.tuned import Tuned


def export(
    model: str,
    *,
    to: Literal["gguf", "transformers", "onnx"] = "gguf",
    dtype: Dtype = "f16",
    merge: bool = False,
    text: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model in another program's format and compare its answers.

    Args:
        model: A name in the store ("poet", "poet@2"), or the folder of a model.
        to: gguf for llama.cpp, LM Studio, Ollama and OpenVINO GenAI; transformers for
            Transformers and vLLM; onnx for onnxruntime, TensorFlow, browsers and phones
            (picture families, lstm, tuned classifiers and encoders).
        dtype: Number format of the matrices in a GGUF: f16, f32, q8_0 (half the size of
            f16), q5_k_m or q4_k_m (a third or less; llama.cpp's mixes). OpenVINO itself
            reads f16 and q8_0.
        merge: Merge a tuned model's adapter into its base's weights first. Without it,
            the adapter alone is exported: --to transformers in PEFT's format, --to gguf
            as a LoRA for llama.cpp and Ollama.
        text: A file to measure the perplexity of a GGUF on, beside the original's; a
            page of English and Chinese by default.
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
    adapter = None if to == "onnx" else _adapter(weights, merge, to)
    is_lora = adapter is not None and not merge
    ending = "lora" if is_lora else dtype
    target = out or Path("exports") / _default_name(weights, to, ending)
    if target.exists() and not overwrite:
        raise Conflict(
            say(f"{target} exists already.", f"{target} 已存在。"),
            say(
                "Choose another path with --out, or use --overwrite.",
                "请用 --out 给出其他位置，或使用 --overwrite。",
            ),
        )
    if to == "onnx":
        from miaobi.verbs.export.onnx import to_onnx

        return to_onnx(weights, target)
    if to == "gguf":
        if adapter and not merge:
            from miaobi.verbs.export.lora import to_lora_gguf

            return to_lora_gguf(adapter, target)
        from miaobi.verbs.export.gguf import to_gguf

        return to_gguf(weights, adapter, target, dtype, _measured_text(text))
    from miaobi.verbs.export.folder import to_folder, to_merged_folder

    if adapter and merge:
        return to_merged_folder(adapter, target)
    return to_folder(weights, adapter, target)


def _measured_text(path: Path | None) -> str:
    """Return the text that perplexities are measured on. Raises BadInput, NotFound."""
    from miaobi.verbs.export.parity import passage

    if path is None:
        return passage()
    if not path.is_file():
        raise NotFound(
            say(f"There is no file {path}.", f"文件 {path} 不存在。"),
            say("Check --text.", "请检查 --text。"),
        )
    text = path.read_text(encoding="utf-8", errors="replace")
    if len(text.strip()) < 2:
        raise BadInput(
            say(f"{path} holds no text.", f"{path} 中没有文本。"),
            say("Give a file of some sentences.", "请给出含有若干句子的文件。"),
        )
    return text


def _default_name(weights: Weights, to: str, ending: str) -> str:
    name = weights.name
    if weights.version:
        name += f"-{weights.version}"
    if to == "onnx":
        return f"{name}.onnx"
    return name if to == "transformers" else f"{name}.{ending}.gguf"


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
    return tuned
