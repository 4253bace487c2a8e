"""Which number format each matrix of a GGUF gets, and its bytes in that format.

q4_k_m and q5_k_m are llama.cpp's mixes (ggml-org/llama.cpp, src/llama-quant.cpp, MIT):
most matrices as Q4_K or Q5_K, and as Q6_K the output layer and, in the layers where an
error costs most, attention's values and the second matrix of the feed-forward. The bytes
of K-quants come from ggml's own `ggml_quantize_chunk`, in the library of xllamacpp.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from miaobi.core.errors import MissingPart, Unsupported
from miaobi.core.language import say
from miaobi.models.requantise import BLOCK, pack_q8

if TYPE_CHECKING:
    import numpy as np

Dtype = Literal["f32", "f16", "q8_0", "q5_k_m", "q4_k_m"]
K_QUANTS = ("q5_k_m", "q4_k_m")
SUPER_BLOCK = 256
"""Weights of a row that a K-quant packs together."""
BASIC = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0", "q5_k_m": "Q5_K", "q4_k_m": "Q4_K"}
"""Of most matrices; vectors are F32."""
FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""Of rows that do not divide by SUPER_BLOCK, as llama.cpp has it."""
LAYER = re.compile(r"blk\.(\d+)\.(attn_v|ffn_down)\.weight")
"""Matrices whose errors cost most."""


def check_rows(dtype: Dtype, sizes: dict[str, int]) -> None:
    """Raise Unsupported where rows do not divide into blocks, and MissingPart or
    Unsupported where ggml is not there.

    Args:
        dtype: of the file.
        sizes: lengths of the rows of its matrices, by name.
    """
    odd = [f"{name} {size}" for name, size in sizes.items() if size % BLOCK]
    if dtype in ("q8_0", *K_QUANTS) and odd:
        raise Unsupported(
            say(
                f"{dtype} packs rows in blocks of {BLOCK}, and {', '.join(odd)} does not divide by {BLOCK}.",
                f"{dtype} 以 {BLOCK} 个权重为一块，而 {'、'.join(odd)} 不能被 {BLOCK} 整除。",
            ),
            say("Export with --dtype f16.", "请用 --dtype f16 导出。"),
        )
    if dtype in K_QUANTS:
        ggml_quantize()


def format_of(
    name: str,
    sizes: Sequence[int],
    dtype: Dtype,
    layers: int,
    tied: bool,
    is_70b: bool = False,
) -> str:
    """Return the name of the format (of ggml) that a tensor is stored in.

    Args:
        name: of the tensor, in GGUF.
        sizes: of the tensor, rows first.
        dtype: of the file.
        layers: how many the model has.
        tied: whether the embeddings are the output layer as well.
        is_70b: whether it is what llama.cpp calls a 70B, whose small matrices of
            attention's values are never Q4_K.
    """
    if len(sizes) < 2:
        return "F32"
    kind = BASIC[dtype]
    if dtype not in K_QUANTS:
        return kind
    output = "token_embd.weight" if tied else "output.weight"
    match = LAYER.fullmatch(name)
    if name == output or (match and _gets_more_bits(int(match[1]), layers)):
        kind = "Q6_K"
    elif is_70b and match and match[2] == "attn_v":
        kind = "Q5_K"
    return FALLBACK[kind] if sizes[-1] % SUPER_BLOCK else kind


def _gets_more_bits(layer: int, layers: int) -> bool:
    """Return whether a layer is of the first or last eighth, or every third between."""
    eighth = layers // 8
    if layer < eighth or layer >= 7 * layers // 8:
        return True
    return (layer - eighth) % 3 == 2


def pack(weights: np.ndarray, kind: str) -> np.ndarray:
    """Return float32 [..., columns] in a format of ggml, as bytes or floats."""
    import gguf

    if kind == "Q8_0":
        return pack_q8(weights)
    number = gguf.GGMLQuantizationType[kind]
    if kind in ("F32", "F16"):
        packed: np.ndarray = gguf.quantize(weights, number)
        return packed
    return _pack_by_ggml(weights, number)


def _pack_by_ggml(weights: np.ndarray, number: Any) -> np.ndarray:
    """Return the bytes that ggml makes of float32 [rows, columns]."""
    import gguf
    import numpy as np

    weights = np.ascontiguousarray(weights, dtype=np.float32)
    shape = gguf.quant_shape_to_byte_shape(weights.shape, number)
    packed = np.empty(shape, dtype=np.uint8)
    rows, columns = weights.shape
    size = ggml_quantize()(
        int(number), weights.ctypes.data, packed.ctypes.data, 0, rows, columns, None
    )
    assert size == packed.nbytes, f"ggml wrote {size} bytes of {packed.nbytes}"
    return packed


@cache
def ggml_quantize() -> Callable[..., int]:
    """Return `ggml_quantize_chunk(type, source, target, start, rows, columns, imatrix)`.

    Raises MissingPart where xllamacpp is not installed, Unsupported where its library
    does not export the function.
    """
    path = library()
    if path is None:
        raise MissingPart(
            say(
                "K-quants are made by ggml, which comes with xllamacpp; it is not installed.",
                "K 量化由 xllamacpp 所带的 ggml 完成，但尚未安装。",
            ),
            "pip install 'miaobi[engines]'",
        )
    try:
        function = ctypes.CDLL(str(path)).ggml_quantize_chunk
    except (AttributeError, OSError):
        raise Unsupported(
            say(
                f"{path} does not export ggml_quantize_chunk, which makes K-quants.",
                f"{path} 没有导出制作 K 量化所需的 ggml_quantize_chunk。",
            ),
            say(
                "Export with --dtype q8_0, or with --dtype f16 and then run llama.cpp's "
                "llama-quantize MODEL.f16.gguf MODEL.q4_k_m.gguf Q4_K_M.",
                "请用 --dtype q8_0 导出；或先用 --dtype f16 导出，再运行 llama.cpp 的 "
                "llama-quantize MODEL.f16.gguf MODEL.q4_k_m.gguf Q4_K_M。",
            ),
        ) from None
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [
        ctypes.c_int,
        pointer,
        pointer,
        integer,
        integer,
        integer,
        pointer,
    ]
    function.restype = ctypes.c_size_t
    quantize: Callable[..., int] = function
    return quantize


def library() -> Path | None:
    """Return the compiled library of xllamacpp; None where it is not installed."""
    spec = find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = [*folder.glob("xllamacpp*.so"), *folder.glob("xllamacpp*.pyd")]
    return next(iter(sorted(files)), None)
