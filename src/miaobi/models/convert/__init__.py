"""Turn a Transformers folder into a GGUF file that llama.cpp and OpenVINO GenAI both load.

The layout follows llama.cpp's converter (ggml-org/llama.cpp, convert_hf_to_gguf.py,
MIT): the two architectures that both engines read, Llama and Qwen3, with a byte-level
BPE tokenizer.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaobi.core.bundle import check_safetensors
from miaobi.core.errors import Damaged, NotFound, Unsupported
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.models.convert import quantise
from miaobi.models.convert.quantise import Dtype
from miaobi.models.convert.tokenizer import (
    Vocabulary,
    check_tokens,
    read_vocabulary,
)
from miaobi.models.weights import read_json

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter

LAYOUTS = {"LlamaForCausalLM": "llama", "Qwen3ForCausalLM": "qwen3"}
SUPPORTED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
}
"""The only values of these settings, and their defaults."""
TABLES = re.compile(r"(^|\.)(embed_tokens|word_embeddings|wte|shared|lm_head)\.weight$")
"""Names of matrices with a row for each token."""


@dataclass(frozen=True)
class Shape:
    """The sizes in a Transformers config.json, with the defaults of its classes."""

    layout: str
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    context: int
    vocabulary: int
    rope_base: float
    norm_eps: float
    tied: bool

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp calls it a 70B: 80 layers, keys and values for groups of heads."""
        shares = self.heads != self.kv_heads
        return self.layout == "llama" and self.layers == 80 and shares


def to_gguf(folder: Path, target: Path, dtype: Dtype = "f16") -> Path:
    """Write the GGUF file of a model, whole or not at all, and return its path.

    Raises what `check` raises.

    Args:
        folder: of the model.
        target: the file to write.
        dtype: of the matrices; vectors are f32. q8_0 is 32 weights as int8 with one
            float16 scale; q5_k_m and q4_k_m are mixes (quantise.py).
    """
    source = check(folder, dtype)
    layout = source.shape.layout
    with write_beside(target) as draft, closing(_writer(draft, layout)) as writer:
        _describe(writer, folder.name, source.shape, dtype)
        _add_vocabulary(writer, source.vocabulary)
        _write_tensors(writer, source, dtype)
    return target


@dataclass(frozen=True)
class Source:
    """A model's folder, read but for the bytes of its weights."""

    shape: Shape
    vocabulary: Vocabulary
    tensors: Sequence[StoredTensor]


def check(
    folder: Path, dtype: Dtype = "f16", tokenizer_folder: Path | None = None
) -> Source:
    """Return what is in a model's folder, after checking that it can be a GGUF.

    Raises Unsupported for what has no GGUF layout that both engines read, or where ggml
    is needed and absent; Damaged for an incomplete folder, and for a tokenizer that does
    not fit the embeddings.

    Args:
        folder: of the model.
        dtype: of the file to be.
        tokenizer_folder: where another tokenizer is than the folder's own.
    """
    shape = read_shape(folder)
    rows = {
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "heads x head_dim": shape.heads * shape.head_width,
    }
    quantise.check_rows(dtype, rows)
    check_vocabulary(folder, tokenizer_folder)
    vocabulary = read_vocabulary(tokenizer_folder or folder, shape.vocabulary)
    return Source(shape, vocabulary, _tensors(folder, shape))


def check_vocabulary(folder: Path, tokenizer_folder: Path | None = None) -> None:
    """Raise Damaged where tokenizer, config.json and embeddings do not fit each other.

    Embeddings may have more rows than there are tokens, but never fewer.

    Args:
        folder: of a Transformers model.
        tokenizer_folder: where another tokenizer is than the folder's own.
    """
    size = read_json(folder / "config.json").get("vocab_size")
    if size is None:
        return
    path = (tokenizer_folder or folder) / "tokenizer.json"
    if path.exists():
        check_tokens(path, size)
    for key, (sizes, file) in _stored(folder).items():
        if TABLES.search(key) and sizes[0] != size:
            raise _other_vocabulary(file, key, sizes[0], size)


def _other_vocabulary(file: Path, key: str, rows: int, size: int) -> Damaged:
    return Damaged(
        say(
            f"{file}: {key} has {rows} rows, and config.json a vocab_size of {size}.",
            f"{file}：{key} 有 {rows} 行，而 config.json 中的 vocab_size 为 {size}。",
        ),
        say(
            "Put back the config.json and the tokenizer that these weights were saved with.",
            "请放回与这些权重一同保存的 config.json 与分词器。",
        ),
    )


def read_shape(folder: Path) -> Shape:
    """Return the sizes of the model in `folder`. Raises Unsupported where GGUF has no layout."""
    path = folder / "config.json"
    if not path.exists():
        raise NotFound(
            say(f"{folder} has no config.json.", f"{folder} 中没有 config.json。"),
            say("Name the folder of a trained model.", "请给出已训练模型的文件夹。"),
        )
    config = json.loads(path.read_text(encoding="utf-8"))
    kind = next(iter(config.get("architectures") or [config.get("model_type", "?")]))
    if kind not in LAYOUTS:
        raise _no_layout(folder, kind)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise _odd_setting(path, "rope_type", rope["rope_type"])
    for key, supported in SUPPORTED.items():
        if config.get(key, supported) != supported:
            raise _odd_setting(path, key, config[key])
    heads = config["num_attention_heads"]
    width = config["hidden_size"]
    return Shape(
        layout=LAYOUTS[kind],
        layers=config["num_hidden_layers"],
        width=width,
        hidden=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim") or width // heads,
        context=config["max_position_embeddings"],
        vocabulary=config["vocab_size"],
        rope_base=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _no_layout(folder: Path, kind: str) -> Unsupported:
    return Unsupported(
        say(
            f"{folder.name} is a {kind}; GGUF has no layout for it that llama.cpp and OpenVINO read.",
            f"{folder.name} 是 {kind}；GGUF 没有 llama.cpp 与 OpenVINO 都能读取的对应布局。",
        ),
        say(
            "Export it with --to transformers, or train a model of the family gpt, which exports to GGUF.",
            "请用 --to transformers 导出，或训练 gpt 类模型，它可以导出为 GGUF。",
        ),
    )


def _odd_setting(path: Path, key: str, value: Any) -> Unsupported:
    return Unsupported(
        say(
            f"{path}: {key} is {value!r}, which this converter does not write.",
            f"{path}：{key} 为 {value!r}，本转换器不支持。",
        ),
        say(
            "Use llama.cpp's own convert_hf_to_gguf.py for this model.",
            "请用 llama.cpp 自带的 convert_hf_to_gguf.py 转换此模型。",
        ),
    )


def _describe(writer: GGUFWriter, name: str, shape: Shape, dtype: Dtype) -> None:
    """Write the metadata of the architecture."""
    import gguf

    file_types = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        "q5_k_m": gguf.LlamaFileType.MOSTLY_Q5_K_M,
        "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
    }
    writer.add_name(name)
    writer.add_file_type(file_types[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocabulary)


def _writer(path: Path, layout: str) -> GGUFWriter:
    import gguf

    class Writer(gguf.GGUFWriter):
        """Writes empty lists too: llama.cpp needs the merges, even none."""

        def _pack_val(
            self,
            val: Any,
            vtype: gguf.GGUFValueType,
            add_vtype: bool,
            sub_type: gguf.GGUFValueType | None = None,
        ) -> bytes:
            if vtype == gguf.GGUFValueType.ARRAY and not val:
                return struct.pack("<IIQ", vtype, gguf.GGUFValueType.STRING, 0)
            packed: bytes = super()._pack_val(val, vtype, add_vtype, sub_type)
            return packed

    return Writer(path, layout)


def _add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Write the metadata of the tokenizer."""
    import gguf

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_key_value(
        gguf.Keys.Tokenizer.MERGES, vocabulary.merges, gguf.GGUFValueType.ARRAY
    )
    for add, value in (
        (writer.add_bos_token_id, vocabulary.bos),
        (writer.add_eos_token_id, vocabulary.eos),
        (writer.add_pad_token_id, vocabulary.pad),
        (writer.add_unk_token_id, vocabulary.unk),
    ):
        if value is not None:
            add(value)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(False)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def _write_tensors(writer: GGUFWriter, source: Source, dtype: Dtype) -> None:
    """Write all tensors, with one matrix in memory at a time: first sizes, then bytes."""
    import gguf
    import numpy as np

    shape = source.shape
    kinds = [
        quantise.format_of(
            tensor.name, tensor.sizes, dtype, shape.layers, shape.tied, shape.is_70b
        )
        for tensor in source.tensors
    ]
    for tensor, kind in zip(source.tensors, kinds, strict=True):
        number = gguf.GGMLQuantizationType[kind]
        stored = gguf.quant_shape_to_byte_shape(tensor.sizes, number)
        size = int(np.prod(stored))
        writer.add_tensor_info(
            tensor.name, stored, np.dtype(np.uint8), size, raw_dtype=number
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, kind in zip(source.tensors, kinds, strict=True):
        weight = rotary_order(_read(tensor), tensor.key, shape)
        writer.write_tensor_data(quantise.pack(weight, kind))


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, and what it is called."""

    name: str
    """In GGUF."""
    sizes: tuple[int, ...]
    file: Path
    """A .safetensors."""
    key: str
    """In that file."""


def _tensors(folder: Path, shape: Shape) -> list[StoredTensor]:
    """Return every tensor of a model's folder. Raises Damaged when one is missing."""
    names = tensor_names(shape)
    stored = _stored(folder)
    if shape.tied:
        stored.pop("lm_head.weight", None)
    elif "lm_head.weight" not in stored:
        raise _missing(folder, "lm_head.weight")
    for key in (
        "model.embed_tokens.weight",
        "model.norm.weight",
        f"model.layers.{shape.layers - 1}.mlp.down_proj.weight",
    ):
        if key not in stored:
            raise _missing(folder, key)
    tensors = list[StoredTensor]()
    for key, (sizes, file) in stored.items():
        name = names.get_name(key, try_suffixes=(".weight",))
        if name is None:
            raise _odd_setting(file, key, "?")
        tensors.append(StoredTensor(name, sizes, file, key))
    return tensors


def tensor_names(shape: Shape) -> Any:
    """Return gguf's table of names, from Transformers' to its own."""
    import gguf

    architectures = {
        "llama": gguf.MODEL_ARCH.LLAMA,
        "qwen3": gguf.MODEL_ARCH.QWEN3,
    }
    return gguf.get_tensor_name_map(architectures[shape.layout], shape.layers)


def _stored(folder: Path) -> dict[str, tuple[tuple[int, ...], Path]]:
    """Return the sizes and the file of each tensor in a folder, by key."""
    from safetensors import safe_open

    stored = dict[str, tuple[tuple[int, ...], Path]]()
    for file in sorted(folder.glob("*.safetensors")):
        check_safetensors(file)
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (not iterable)
                stored[key] = (tuple(tensors.get_slice(key).get_shape()), file)
    return stored


def _missing(folder: Path, key: str) -> Damaged:
    return Damaged(
        say(f"{folder} has no weights {key}.", f"{folder} 缺少权重 {key}。"),
        say(
            "Copy the whole folder again, or train again.",
            "请重新复制整个文件夹，或重新训练。",
        ),
    )


def _read(tensor: StoredTensor) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(tensor.file, framework="pt") as tensors:
        array: np.ndarray = tensors.get_tensor(tensor.key).float().numpy()
    return array


def rotary_order(weight: np.ndarray, key: str, shape: Shape) -> np.ndarray:
    """Return the weight with its rows in GGUF's order, if it is q or k of a Llama.

    From halves (x_i with x_{i+d/2}, Transformers) to neighbours (x_{2i} with x_{2i+1}).
    """
    if shape.layout != "llama" or not key.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    heads = shape.heads if key.endswith("q_proj.weight") else shape.kv_heads
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)
