"""What an export wrote, what was measured of it, and how to use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from miaobi.core.language import say
from miaobi.models.convert.quantise import K_QUANTS
from miaobi.verbs.export.parity import Parity, Perplexity


@dataclass(frozen=True)
class Exported:
    """An exported file or folder."""

    model: str
    path: Path
    format: str
    """gguf, gguf-lora or peft for an adapter as it is, transformers, onnx."""
    dtype: str
    bytes: int
    parity: Parity | None = None
    perplexity: Perplexity | None = None
    architecture: str = ""
    """The class that a Transformers folder is for."""
    modelfile: Path | None = None
    """For Ollama, beside a GGUF."""
    notes: Sequence[str] = ()
    """What was compared, one entry each, for other formats than GGUF."""

    def __str__(self) -> str:
        size = f"{self.path}  {self.bytes / 1e6:,.1f} MB"
        if self.dtype:
            size += f"  {self.dtype}"
        parts = [size]
        if self.format.startswith("gguf"):
            parts.append(self._comparison())
        if self.perplexity:
            parts.append(str(self.perplexity))
        parts += self.notes
        usage = {
            "gguf": self._gguf_usage,
            "gguf-lora": self._gguf_lora_usage,
            "peft": self._peft_usage,
            "onnx": self._onnx_usage,
            "transformers": self._transformers_usage,
        }
        return "\n".join(
            [*parts, "", say("Use it:", "使用方法："), *usage[self.format]()]
        )

    def _comparison(self) -> str:
        if self.parity:
            return str(self.parity)
        return say(
            "not compared: llama.cpp is not installed (pip install 'miaobi[engines]')",
            "未比对：没有安装 llama.cpp（pip install 'miaobi[engines]'）",
        )

    def _gguf_usage(self) -> list[str]:
        parts = [
            f"  miaobi generate text --model {self.path} --prompt ...",
            f"  llama-cli -m {self.path}",
        ]
        if self.modelfile:
            parts.append(f"  ollama create {self.path.stem} -f {self.modelfile}")
        programs = say(
            "  LM Studio, OpenVINO GenAI: open the file.",
            "  LM Studio、OpenVINO GenAI：直接打开该文件。",
        )
        if self.dtype == "f32" or self.dtype in K_QUANTS:
            programs = say(
                "  LM Studio: open the file. OpenVINO GenAI itself reads f16 and q8_0 only.",
                "  LM Studio：直接打开该文件。OpenVINO GenAI 自身只读取 f16 与 q8_0。",
            )
        return [*parts, programs]

    def _gguf_lora_usage(self) -> list[str]:
        parts = [f"  llama-cli -m BASE.gguf --lora {self.path}"]
        if self.modelfile:
            parts.append(f"  ollama create {self.path.stem} -f {self.modelfile}")
        return parts

    def _peft_usage(self) -> list[str]:
        module = f"{self.path.name}={self.path}"
        return [
            f'  PeftModel.from_pretrained(base, "{self.path}")',
            f"  vllm serve BASE --enable-lora --lora-modules {module}",
        ]

    def _onnx_usage(self) -> list[str]:
        return [
            f'  onnxruntime.InferenceSession("{self.path}/NAME.onnx")',
            say(
                f"  {self.path}/graphs.json names the inputs and outputs of each graph.",
                f"  {self.path}/graphs.json 列出各个计算图的输入与输出。",
            ),
        ]

    def _transformers_usage(self) -> list[str]:
        if self.architecture.endswith("ForCausalLM"):
            return [
                f'  AutoModelForCausalLM.from_pretrained("{self.path}")',
                f"  vllm serve {self.path}",
            ]
        return [f'  {self.architecture}.from_pretrained("{self.path}")']
