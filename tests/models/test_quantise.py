"""The mix of number formats a layer, against llama.cpp's rules.

Expected values were worked out by hand from `llama_tensor_get_type_impl` and
`tensor_type_fallback` in src/llama-quant.cpp of ggml-org/llama.cpp at 007dbbf (MIT), and
`LLM_TYPE_70B` from its src/models/llama.cpp. No code of it is here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from miaobi.models.convert import Shape
from miaobi.models.convert.quantise import format_of

ROWS = [64, 256]
MORE_BITS = {
    1: [0],
    2: [1],
    4: [2, 3],
    8: [0, 3, 6, 7],
    22: [0, 1, 4, 7, 10, 13, 16, 19, 20, 21],
    28: [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27],
    30: [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29],
    32: [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31],
}
"""By the number of layers, those whose values and second matrix are Q6_K."""
BASIC = {"q4_k_m": "Q4_K", "q5_k_m": "Q5_K"}


def formats(matrix: str, dtype: Any, layers: int, **settings: Any) -> list[str]:
    """The format of a matrix, layer by layer."""
    return [
        format_of(
            f"blk.{layer}.{matrix}.weight", ROWS, dtype, layers, False, **settings
        )
        for layer in range(layers)
    ]


@pytest.mark.parametrize("dtype", BASIC)
@pytest.mark.parametrize("layers", MORE_BITS)
@pytest.mark.parametrize("matrix", ["attn_v", "ffn_down"])
def test_layers_that_get_more_bits(matrix: str, layers: int, dtype: str) -> None:
    expected = [
        "Q6_K" if layer in MORE_BITS[layers] else BASIC[dtype]
        for layer in range(layers)
    ]
    assert formats(matrix, dtype, layers) == expected


def test_q4_k_m_has_half_of_them_as_q6_k() -> None:
    """As llama.cpp's documents say of it, for the 32 layers of a 7B."""
    assert Counter(formats("attn_v", "q4_k_m", 32)) == {"Q6_K": 16, "Q4_K": 16}


@pytest.mark.parametrize("dtype", BASIC)
@pytest.mark.parametrize(
    "matrix", ["attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"]
)
def test_all_other_matrices_have_the_basic_format(matrix: str, dtype: str) -> None:
    assert set(formats(matrix, dtype, 32)) == {BASIC[dtype]}


@pytest.mark.parametrize("dtype", BASIC)
@pytest.mark.parametrize(
    ("name", "tied", "expected"),
    [
        ("output.weight", False, "Q6_K"),
        ("token_embd.weight", True, "Q6_K"),
        ("token_embd.weight", False, "basic"),
    ],
)
def test_the_output_layer(name: str, tied: bool, expected: str, dtype: Any) -> None:
    expected = BASIC[dtype] if expected == "basic" else expected
    assert format_of(name, ROWS, dtype, 32, tied) == expected


@pytest.mark.parametrize(
    ("dtype", "layer", "expected"),
    [
        ("q4_k_m", 0, "Q8_0"),
        ("q4_k_m", 5, "Q5_0"),
        ("q5_k_m", 0, "Q8_0"),
        ("q5_k_m", 5, "Q5_1"),
    ],
)
def test_rows_without_whole_super_blocks(dtype: Any, layer: int, expected: str) -> None:
    """576 columns, as those of SmolLM2-135M: 18 blocks of 32, and no whole of 256."""
    name = f"blk.{layer}.ffn_down.weight"
    assert format_of(name, [64, 576], dtype, 32, False) == expected
    assert format_of("output.weight", [64, 576], dtype, 32, False) == "Q8_0"


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0", "q5_k_m", "q4_k_m"])
def test_vectors_are_f32(dtype: Any) -> None:
    assert format_of("blk.0.attn_norm.weight", [64], dtype, 32, False) == "F32"


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_plain_formats_are_no_mix(dtype: Any) -> None:
    assert set(formats("attn_v", dtype, 32)) == {dtype.upper()}


def shape(**settings: Any) -> Shape:
    sizes: dict[str, Any] = {
        "layout": "llama",
        "layers": 80,
        "width": 8192,
        "hidden": 28672,
        "heads": 64,
        "kv_heads": 8,
        "head_width": 128,
        "context": 4096,
        "vocabulary": 32000,
        "rope_base": 10000.0,
        "norm_eps": 1e-5,
        "tied": False,
    }
    return Shape(**{**sizes, **settings})


def test_a_70b_has_no_values_in_q4_k() -> None:
    assert shape().is_70b
    assert not shape(kv_heads=64).is_70b  # the 65B of the first Llama
    assert not shape(layout="qwen3").is_70b
    assert not shape(layers=32).is_70b
    values = formats("attn_v", "q4_k_m", 80, is_70b=True)
    others = formats("ffn_down", "q4_k_m", 80, is_70b=True)
    assert set(values) == {"Q6_K", "Q5_K"}
    assert set(others) == {"Q6_K", "Q4_K"}
