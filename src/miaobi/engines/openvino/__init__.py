"""OpenVINO GenAI's continuous batching on Intel-compatible CPUs: ahead of the others
from a few streams on.

The pipeline runs in a process of its own (process.py, pipeline.py). It reads GGUF files
(Llama and Qwen layouts) and OpenVINO folders.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from miaobi.core import gguf
from miaobi.core.engine import Abilities, Weights
from miaobi.core.machine import physical_cores
from miaobi.core.requests import TextRequest
from miaobi.engines.text import grammar
from miaobi.models import converted

if TYPE_CHECKING:
    from miaobi.engines.openvino.engine import OpenVinoEngine

FORMATS = ("openvino", "gguf", "bundle")
TAKES = TextRequest
ABILITIES = Abilities(
    frozenset(
        {
            "n",
            "seed",
            "prompt",
            "prompt_ids",
            "messages",
            "continue_final_message",
            "max_new_tokens",
            "min_new_tokens",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "no_repeat_ngram_size",
            "stop",
            "num_beams",
            "logprobs",
            "json_schema",
        }
    ),
    tokenize=True,
    checks={"json_schema": grammar.check},
)

ARCHITECTURES = ("llama", "qwen2", "qwen3")
TYPES = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q8_0"}
"""What GenAI's GGUF reader takes; a file that is float32 throughout it refuses."""

MIN_STREAMS = 256
"""Answers that the pipeline makes together, at least, before others wait."""


def installed() -> str | None:
    return None if find_spec("openvino_genai") else 'pip install "miaobi[engines]"'


def reads(weights: Weights) -> bool:
    if weights.format != "gguf":
        return weights.format == "openvino" or converted.fits(weights)
    header = gguf.read(weights.path)
    if header.architecture not in ARCHITECTURES:
        return False
    return header.types <= TYPES and header.types != {"F32"}


def open_engine(
    weights: Weights, *, streams: int = 1, cache_gb: int = 1, threads: int | None = None
) -> OpenVinoEngine:
    """Start the process that runs these weights.

    Args:
        weights: A GGUF file, an OpenVINO folder, or a bundle that becomes a GGUF file.
        streams: How many answers will be made at the same time.
        cache_gb: Memory for keys and values of all answers together.
        threads: Of the processor; its physical cores unless given.
    """
    from miaobi.engines.openvino.engine import OpenVinoEngine

    bundle = weights.format == "bundle"
    return OpenVinoEngine(
        converted.gguf_of(weights) if bundle else weights.path,
        weights.name,
        ABILITIES,
        streams=max(streams, MIN_STREAMS),
        cache_gb=cache_gb,
        threads=threads or physical_cores(),
    )
