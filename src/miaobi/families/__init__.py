"""Kinds of models that are trained from scratch, one file each, and the table of their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from miaobi.nn.objective import Family

families: Registry[Family] = Registry(
    "families",
    {
        "gpt": "miaobi.families.gpt",
        "lstm": "miaobi.families.lstm",
        "bert": "miaobi.families.bert",
        "seq2seq": "miaobi.families.seq2seq",
        "text_vae": "miaobi.families.text_vae",
        "vae": "miaobi.families.vae",
        "vq": "miaobi.families.vq",
        "gan": "miaobi.families.gan",
        "pix2pix": "miaobi.families.pix2pix",
        "flow": "miaobi.families.flow",
    },
)
