"""Checks that a Diffusers folder is whole, and free of code and pickles.

They come before anything in it is opened. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miaobi.core.bundle import check_safetensors
from miaobi.core.errors import BadInput, NotFound, Unsupported, nearest
from miaobi.core.language import say
from miaobi.models import single_file
from miaobi.models.weights import PIPELINE, read_json, refuse_foreign_code

WEIGHTLESS = re.compile(
    r"(Scheduler|Tokenizer(Fast)?|Processor(Fast|Pil)?|FeatureExtractor)$"
)
"""Classes whose folders hold settings and no weights."""
VARIANT = re.compile(r"\.(fp16|bf16)(-\d+-of-\d+)?\.safetensors$")
"""In the names of weights that are published in half precision beside the whole ones."""
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
CHECKERS = ("safety_checker",)
"""Parts that are never loaded: pictures are checked by engines/moderation instead."""
SPARED = ("feature_extractor", "image_encoder", "text_encoder_3", "tokenizer_3")
"""Parts that a pipeline paints without: what only checkers and image prompts need, and
Stable Diffusion 3's largest text encoder, which people leave out.
"""


def check(folder: Path, name: str) -> str:
    """Return the class of the pipeline in `folder`.

    Raises NotFound naming every missing part, Unsupported for pickled weights or code
    that came along, Damaged for files that are cut short.
    """
    index = read_json(folder / PIPELINE)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str):
        raise _code(name, f"_class_name = {pipeline!r} ({PIPELINE})")
    parts = {
        part: kind
        for part, kind in index.items()
        if isinstance(kind, list)
        and len(kind) == 2
        and kind[1] is not None
        and part not in CHECKERS
    }
    _refuse_code(folder, name, parts)
    _refuse_unknown(name, pipeline, parts)
    missing = list[Path]()
    for part, (_, kind) in parts.items():
        if not (part in SPARED and is_absent(folder / part)):
            missing += lacking(folder / part, kind)
    if missing:
        listed = ", ".join(str(path.relative_to(folder)) for path in missing)
        raise NotFound(
            say(f"{name} lacks parts: {listed}.", f"{name} 缺少以下部分：{listed}。"),
            say(
                "Copy or download the whole folder again.",
                "请重新复制或下载整个文件夹。",
            ),
        )
    return pipeline


def is_absent(part: Path) -> bool:
    """Return whether nothing is there of a part: no folder, or an empty one."""
    return not part.is_dir() or not any(part.iterdir())


def spared(folder: Path) -> list[str]:
    """Return the parts of a pipeline's folder that were left out and are not needed."""
    index = read_json(folder / PIPELINE)
    return [part for part in SPARED if part in index and is_absent(folder / part)]


def variant(folder: Path) -> str | None:
    """Return the precision that a folder's weights are only there in: fp16, bf16 or None.

    Published folders hold files such as diffusion_pytorch_model.fp16.safetensors.
    """
    parts = [path for path in folder.iterdir() if path.is_dir()]
    halves = {half_precision(sorted(part.glob("*.safetensors"))) for part in parts}
    return min(halves - {""}, default=None)


def half_precision(files: Sequence[Path]) -> str:
    """Return fp16 or bf16 where a part's files are there in that precision only, else ""."""
    matches = [VARIANT.search(file.name) for file in files]
    names = {match[1] for match in matches if match}
    return min(names) if files and all(matches) else ""


def lacking(folder: Path, kind: str) -> list[Path]:
    """Return the paths that are missing in a part's folder.

    Raises Unsupported for pickled weights, Damaged for files that are cut short.
    """
    if not folder.is_dir():
        return [folder]
    if WEIGHTLESS.search(kind):
        has_settings = any(folder.glob("*.json")) or any(folder.glob("*.model"))
        return [] if has_settings else [folder / "*.json"]
    if not (folder / "config.json").exists():
        return [folder / "config.json"]
    files = sorted(folder.glob("*.safetensors"))
    half = half_precision(files)
    shards = {
        folder / file
        for index in folder.glob(f"*.safetensors.index{half and '.' + half}.json")
        for file in read_json(index).get("weight_map", {}).values()
    }
    if not files and not shards:
        refuse_pickles(sorted(folder.iterdir()), folder)
        return [folder / "*.safetensors"]
    for file in files:
        check_safetensors(file)
    return sorted(shards - set(files))


def refuse_pickles(files: list[Path], what: Path) -> None:
    """Raise Unsupported where one of the files is a pickle."""
    pickled = [file.name for file in files if file.suffix in PICKLES]
    if pickled:
        raise Unsupported(
            say(
                f"The weights of {what} are pickled ({', '.join(pickled)}), "
                "which can run code when opened, so they are not read.",
                f"{what} 的权重是 pickle 格式（{'、'.join(pickled)}），打开时可能执行代码，因此不予读取。",
            ),
            say(
                "Convert them to safetensors, on a machine that may be lost: "
                "pipeline.save_pretrained(folder, safe_serialization=True).",
                "请在隔离的机器上转换为 safetensors：pipeline.save_pretrained(folder, safe_serialization=True)。",
            ),
        )


def file_of(path: Path, option: str) -> Path:
    """Return the .safetensors file that `path` is, or the only one in it.

    Raises NotFound, BadInput for several, Unsupported for pickles, Damaged.
    """
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            refuse_pickles(sorted(path.iterdir()), path)
            raise NotFound(
                say(
                    f"{option}: {path} holds no .safetensors file.",
                    f"{option}：{path} 中没有 .safetensors 文件。",
                ),
                say("Check the path.", "请检查路径。"),
            )
        if len(files) > 1:
            names = [file.name for file in files]
            raise BadInput(
                say(
                    f"{option}: {path} holds several: {', '.join(names)}.",
                    f"{option}：{path} 中有多个：{'、'.join(names)}。",
                ),
                say("Name the file.", "请指明文件。"),
            )
        path = files[0]
    refuse_pickles([path], path)
    if path.suffix != ".safetensors":
        raise Unsupported(
            say(
                f"{option}: {path} is no safetensors file.",
                f"{option}：{path} 不是 safetensors 文件。",
            ),
            say("Give a .safetensors file.", "请给出 .safetensors 文件。"),
        )
    single_file.check_option(path, option)
    check_safetensors(path)
    return path


def _refuse_code(folder: Path, name: str, parts: dict[str, Any]) -> None:
    """Raise Unsupported for Python files, and for configurations that need some."""
    for directory in (folder, *(folder / part for part in parts)):
        for file in sorted(directory.glob("*.py")):
            raise _code(name, str(file.relative_to(folder)))
        config = directory / "config.json"
        if config.exists():
            part_name = name if directory == folder else f"{name}/{directory.name}"
            refuse_foreign_code(read_json(config), part_name)


def _refuse_unknown(name: str, pipeline: str, parts: dict[str, Any]) -> None:
    """Raise Unsupported for a class that is not Diffusers' or Transformers' own."""
    import diffusers

    if not isinstance(getattr(diffusers, pipeline, None), type):
        names = [kind for kind in dir(diffusers) if kind.endswith("Pipeline")]
        raise Unsupported(
            say(
                f"{name} is a {pipeline}, which Diffusers {diffusers.__version__} does not have.",
                f"{name} 属于 {pipeline}，Diffusers {diffusers.__version__} 中没有它。",
            ),
            nearest(pipeline, names),
        )
    for part, (library, kind) in parts.items():
        if library not in ("diffusers", "transformers") and not hasattr(
            diffusers.pipelines, str(library)
        ):
            raise _code(name, f"{part} = {library}.{kind} ({PIPELINE})")


def _code(name: str, what: str) -> Unsupported:
    """Return the error for a model that needs Python code of its own."""
    return Unsupported(
        say(
            f"{name} brings Python code of its own: {what}. It is never run here.",
            f"{name} 带有自己的 Python 代码：{what}，此处绝不运行。",
        ),
        say(
            "Choose a model that Diffusers itself supports; a .py file that the model does not need can be deleted.",
            "请选用 Diffusers 自身支持的模型；若模型并不需要该 .py 文件，可将其删除。",
        ),
    )


def of_controlnet(folder: Path) -> str:
    """Return the class of a ControlNet's folder.

    Raises as `check`, or BadInput for a folder of something else.
    """
    missing = lacking(folder, "")
    if missing:
        raise NotFound(
            say(
                f"controlnet: {folder} lacks {missing[0].name}.",
                f"controlnet：{folder} 缺少 {missing[0].name}。",
            ),
            say(
                "Copy or download the whole folder again.",
                "请重新复制或下载整个文件夹。",
            ),
        )
    _refuse_code(folder, folder.name, {})
    kind = read_json(folder / "config.json").get("_class_name")
    import diffusers

    if (
        not isinstance(kind, str)
        or "ControlNet" not in kind
        or not isinstance(getattr(diffusers, kind, None), type)
    ):
        names = [other for other in dir(diffusers) if other.endswith("ControlNetModel")]
        raise BadInput(
            say(
                f"controlnet: {folder} holds a {kind}, not a ControlNet.",
                f"controlnet：{folder} 中是 {kind}，不是 ControlNet。",
            ),
            nearest(str(kind), names),
        )
    return kind
