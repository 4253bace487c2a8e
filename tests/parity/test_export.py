"""A bundle answers the same natively, in llama.cpp and in OpenVINO: tokens,
log-probabilities, and how text is cut.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.small import POEM, small_bundle, small_tokenizer
from tokenizers import Tokenizer as Backend
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from miaobi.core import gguf as header
from miaobi.core.errors import Damaged, NotFound, Unsupported
from miaobi.data.text import tokenizer as tokenizers
from miaobi.models.convert import to_gguf
from miaobi.models.requantise import pack_q8, to_q8

gguf = pytest.importorskip("gguf")
xllamacpp = pytest.importorskip("xllamacpp")
openvino_genai = pytest.importorskip("openvino_genai")

PROMPTS = ("The moon", "春江潮水", "江畔何人")
LENGTH = 16
EXACT, HALF, EIGHT = 5e-3, 5e-3, 0.15
"""Nats. float32 and float16 weights; llama.cpp and OpenVINO keep keys and values in
float16. q8_0: 1/127 of each block.
"""


@cache
def trained(kind: str, tied: bool, kv_heads: int, head_dim: int) -> torch.nn.Module:
    """A tiny model that learnt the poem, so that its distribution is not flat."""
    torch.manual_seed(1)
    config, model = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[kind]
    module: Any = model(
        config(
            vocab_size=small_tokenizer().vocab_size,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    ids = torch.tensor(
        [
            small_tokenizer().end_id,
            *small_tokenizer().encode([POEM]),
            small_tokenizer().end_id,
        ]
        * 2
    )
    optimiser = torch.optim.AdamW(module.parameters(), lr=5e-3)
    for _ in range(40):
        offsets = torch.randint(0, len(ids) - 49, (8,)).tolist()
        batch = torch.stack([ids[offset : offset + 49] for offset in offsets])
        loss = F.cross_entropy(
            module(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return module.eval()


@pytest.fixture(
    params=[("llama", False, 4, 16), ("llama", True, 2, 16), ("qwen3", False, 2, 32)],
    ids=["llama", "llama-tied-grouped", "qwen3-wide-heads"],
)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    trained(*request.param).save_pretrained(tmp_path / "model")
    small_tokenizer().save(tmp_path / "model")
    return tmp_path / "model"


def transformers_logprobs(folder: Path, ids: list[int]) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


def check(
    folder: Path,
    prompt: list[int],
    tokens: list[int],
    logprobs: list[float],
    tolerance: float,
) -> None:
    """The engine's greedy answer, teacher-forced through Transformers: its choices are
    the likeliest ones there, with the same log-probability, up to the tolerance.
    """
    assert len(tokens) == LENGTH
    reference = transformers_logprobs(folder, [*prompt, *tokens])[len(prompt) - 1 : -1]
    expected = reference[range(LENGTH), tokens]
    assert (expected - torch.tensor(logprobs)).abs().max() < tolerance
    assert (reference.max(dim=-1).values - expected).max() < tolerance


def in_llamacpp(path: Path, prompt: str) -> tuple[list[int], list[float]]:
    params = xllamacpp.CommonParams()
    (
        params.model.path,
        params.n_ctx,
        params.n_parallel,
        params.warmup,
        params.verbosity,
    ) = str(path), 256, 1, False, -1
    answer = xllamacpp.Server(params).handle_completions(
        {"prompt": prompt, "max_tokens": LENGTH, "temperature": 0, "logprobs": 1}
    )
    chosen = answer["choices"][0]["logprobs"]["content"]
    return [item["id"] for item in chosen], [item["logprob"] for item in chosen]


def in_openvino(path: Path, prompt: str) -> tuple[list[int], list[float]]:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(path), scheduler, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.logprobs, config.do_sample, config.ignore_eos = (
        LENGTH,
        1,
        False,
        True,
    )
    handle = pipeline.add_request(
        0, pipeline.get_tokenizer().encode(prompt).input_ids, config
    )
    while pipeline.has_non_finished_requests():
        pipeline.step()
    output = handle.read_all()[0]
    return list(output.generated_ids), list(output.generated_log_probs)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("f32", EXACT), ("f16", HALF), ("q8_0", EIGHT)]
)
def test_llamacpp_answers_as_transformers_does(
    folder: Path, dtype: Any, tolerance: float
) -> None:
    path = to_gguf(folder, folder.parent / "model.gguf", dtype)
    for prompt in PROMPTS:
        check(
            folder,
            small_tokenizer().encode([prompt]),
            *in_llamacpp(path, prompt),
            tolerance,
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", HALF), ("q8_0", EIGHT)])
def test_openvino_answers_as_transformers_does(
    folder: Path, dtype: Any, tolerance: float
) -> None:
    path = to_gguf(folder, folder.parent / "model.gguf", dtype)
    for prompt in PROMPTS:
        check(
            folder,
            small_tokenizer().encode([prompt]),
            *in_openvino(path, prompt),
            tolerance,
        )


def test_openvino_still_refuses_f32(tmp_path: Path) -> None:
    """If this fails, OpenVINO has learnt to read float32 matrices: say so in `export`
    and let `auto` use them.
    """
    folder = small_bundle(tmp_path / "model")
    with pytest.raises(RuntimeError, match="Unsupported quantization type"):
        openvino_genai.LLMPipeline(
            str(to_gguf(folder, folder.parent / "model.gguf", "f32")), "CPU"
        )


def test_the_comparison_notices_unlike_weights(folder: Path) -> None:
    """Without the rotary permutation the answers differ: the tolerance is tight enough
    to see it.
    """
    if "qwen3" in (folder / "config.json").read_text():
        pytest.skip("Qwen3 keeps Transformers' order")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "miaobi.models.convert.rotary_order", lambda weight, key, shape: weight
        )
        path = to_gguf(folder, folder.parent / "wrong.gguf", "f32")
    with pytest.raises(AssertionError):
        for prompt in PROMPTS:
            check(
                folder,
                small_tokenizer().encode([prompt]),
                *in_llamacpp(path, prompt),
                EIGHT,
            )


@cache
def cutters(name: str) -> tuple[Backend, Any, Any]:
    """The same tokenizer three times: tokenizers, OpenVINO, llama.cpp."""
    folder = Path(tempfile.mkdtemp())
    tokenizer = {
        "char": lambda: small_tokenizer(),
        "ascii": lambda: tokenizers.characters(Counter("abc"), 1),
        "bpe": lambda: tokenizers.train_bpe(
            [POEM, "the rain and the river, don't you know? 1234 " * 50], 400
        ),
    }[name]()
    tokenizer.save(folder)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    ).save_pretrained(folder)
    path = to_gguf(folder, folder / "model.gguf", "f16")
    params = xllamacpp.CommonParams()
    (
        params.model.path,
        params.n_ctx,
        params.n_parallel,
        params.warmup,
        params.verbosity,
    ) = str(path), 2048, 1, False, -1
    params.embedding = False
    return (
        Backend.from_file(str(folder / "tokenizer.json")),
        openvino_genai.Tokenizer(str(path)),
        xllamacpp.Server(params),
    )


def llamacpp_count(server: Any, text: str) -> int:
    answer = server.handle_completions(
        {"prompt": text, "max_tokens": 1, "cache_prompt": False}
    )
    return int(answer["usage"]["prompt_tokens"])


ODD = st.sampled_from(
    [
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "don't",
        "I'LL",
        "\r\n",
        "  ",
        "\n\n",
        "1234",
        "月",
        "é",
        "e\u0301",
        "🌙",
        "龘",
        "a",
        " b",
    ]
)


@pytest.mark.parametrize("name", ["char", "ascii", "bpe"])
@settings(max_examples=120)
@given(text=st.one_of(st.text(max_size=40), st.lists(ODD, max_size=8).map("".join)))
def test_text_is_cut_alike(name: str, text: str) -> None:
    backend, openvino, llamacpp = cutters(name)
    ids = backend.encode(text).ids
    assert openvino.encode(text).input_ids.data.flatten().tolist() == ids
    if ids:
        assert llamacpp_count(llamacpp, text) == len(ids)
        assert openvino.decode(ids) == backend.decode(ids)


def test_everything_the_engines_need_is_in_the_file(folder: Path) -> None:
    path = to_gguf(folder, folder.parent / "model.gguf", "q8_0")
    file = header.read(path)
    config = json.loads((folder / "config.json").read_text())
    metadata = file.metadata
    assert metadata["tokenizer.ggml.pre"] == "qwen2"
    assert metadata["tokenizer.ggml.eos_token_id"] == small_tokenizer().end_id
    assert metadata["tokenizer.chat_template"] == tokenizers.CHAT_TEMPLATE
    assert len(metadata["tokenizer.ggml.tokens"]) == config["vocab_size"]
    assert file.of_model("context_length") == 256
    kv_heads = config["num_key_value_heads"]
    assert file.of_model("attention.head_count_kv") == kv_heads
    assert file.types == {"F32", "Q8_0"}


def test_a_family_without_a_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="transformers"):
        to_gguf(small_bundle(tmp_path / "m", "lstm"), tmp_path / "m.gguf")
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("rope_parameters", {"rope_type": "yarn"}),
    ],
)
def test_what_would_be_written_wrongly_is_refused(
    folder: Path, key: str, value: Any
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(Unsupported, match="config.json"):
        to_gguf(folder, folder.parent / "m.gguf")


def test_rows_that_do_not_fit_q8_0(tmp_path: Path) -> None:
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=small_tokenizer().vocab_size,
            hidden_size=36,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    ).save_pretrained(tmp_path / "m")
    small_tokenizer().save(tmp_path / "m")
    with pytest.raises(Unsupported, match="f16"):
        to_gguf(tmp_path / "m", tmp_path / "m.gguf", "q8_0")
    assert to_gguf(tmp_path / "m", tmp_path / "m.gguf", "f16").exists()


def test_a_cut_off_or_emptied_folder(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(Damaged, match="cut short"):
        to_gguf(folder, folder.parent / "m.gguf")
    weights.unlink()
    with pytest.raises(Damaged, match="no weights"):
        to_gguf(folder, folder.parent / "m.gguf")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(NotFound, match=r"tokenizer\.json"):
        to_gguf(folder, folder.parent / "m.gguf")
    assert not list(folder.parent.glob("*m.gguf*"))


def test_a_tokenizer_that_engines_would_split_otherwise(folder: Path) -> None:
    tokenizer = tokenizers.train_bpe([POEM * 3], 300)
    spec = json.loads(tokenizer.backend.to_str())
    spec["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(Unsupported, match="pre_tokenizer"):
        to_gguf(folder, folder.parent / "m.gguf")


def test_q8_0_is_packed_as_ggml_packs_it() -> None:
    weights = np.random.default_rng(0).normal(size=(8, 96)).astype(np.float32)
    weights[0, :32] = 0
    assert (
        pack_q8(weights) == gguf.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    ).all()


def test_requantising_keeps_the_weights_and_all_else(tmp_path: Path) -> None:
    """From Q4_1, whose values q8_0 holds to within half a step, 1/254 of each block's largest."""
    weights = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    four = gguf.GGMLQuantizationType.Q4_1
    writer = gguf.GGUFWriter(tmp_path / "q4.gguf", "llama")
    writer.add_file_type(3)
    writer.add_token_list(["a", "春", "<|end|>"])
    writer.add_token_types([1, 1, 3])
    writer.add_rope_freq_base(12345.0)
    writer.add_add_bos_token(False)
    writer.add_tensor("a.weight", gguf.quantize(weights, four), raw_dtype=four)
    writer.add_tensor("b.weight", weights[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    to_q8(tmp_path / "q4.gguf", tmp_path / "q8.gguf")
    before, after = header.read(tmp_path / "q4.gguf"), header.read(tmp_path / "q8.gguf")
    assert after.metadata == before.metadata | {
        "general.file_type": 7
    } and after.types == {"Q8_0", "F32"}
    matrix, vector = gguf.GGUFReader(tmp_path / "q8.gguf").tensors
    held = gguf.dequantize(gguf.quantize(weights, four), four)
    steps = np.abs(held.reshape(-1, 32)).max(1, keepdims=True) / 127
    again = gguf.dequantize(matrix.data, matrix.tensor_type)
    assert (np.abs(again - held).reshape(-1, 32) <= steps * 0.51).all()
    assert (vector.data == weights[0]).all()
