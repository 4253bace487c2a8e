"""Turn a LoRA that was tuned here into a GGUF that llama.cpp and Ollama put on its base.

Layout: llama.cpp's convert_lora_to_gguf.py (ggml-org/llama.cpp, MIT): for each matrix of
the base W its factors W.lora_a [r, in] and W.lora_b [out, r], and one alpha; there
ΔW = alpha / r · B A with r the width of A. The scales of single matrices are in B, and
matrices of lower rank are filled up with zeros.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import gguf
import torch
from torch import Tensor

from miaobi.core.errors import Unsupported
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.models.convert import read_shape, rotary_order, tensor_names
from miaobi.models.merging import MODULE_PREFIX, read_update
from miaobi.models.tuned import Tuned


def lora_to_gguf(tuned: Tuned, target: Path) -> Path:
    """Write the GGUF of an adapter, whole or not at all, and return its path.

    Raises Unsupported for bases without a GGUF layout, for other adapters than LoRA, and
    for updates of matrices that a GGUF has no place for.

    Args:
        tuned: the saved adapter.
        target: the file to write.
    """
    shape = read_shape(tuned.base.folder)
    update = read_update(tuned)
    names = tensor_names(shape)
    with (
        write_beside(target) as draft,
        closing(gguf.GGUFWriter(draft, shape.layout)) as writer,
    ):
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(tuned.label)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(update.rank))
        for module, factors in update.factors.items():
            key = module.removeprefix(MODULE_PREFIX) + ".weight"
            name = names.get_name(key, try_suffixes=(".weight",))
            if name is None or not name.startswith("blk."):
                raise _no_place(tuned, key)
            up, down = (factor.float() for factor in factors)
            lora_a, lora_b = _filled(up, down, update.rank)
            rows = rotary_order(lora_b.numpy(), key, shape)
            writer.add_tensor(f"{name}.lora_a", lora_a.numpy())
            writer.add_tensor(f"{name}.lora_b", rows)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return target


def _filled(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A [rank, in] and B [out, rank], with zeros beyond their own rank."""
    spare = rank - down.shape[0]
    lora_a = torch.nn.functional.pad(down, (0, 0, 0, spare)).contiguous()
    lora_b = torch.nn.functional.pad(up, (0, spare)).contiguous()
    return lora_a, lora_b


def _no_place(tuned: Tuned, key: str) -> Unsupported:
    return Unsupported(
        say(
            f"{tuned.label} changes {key}, which llama.cpp takes no LoRA for.",
            f"{tuned.label} 修改了 {key}，llama.cpp 不支持对它使用 LoRA。",
        ),
        f"miaobi export {tuned.label} --merge --to gguf",
    )
