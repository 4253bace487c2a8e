"""The diffusers engine against the same pipeline called directly, alternating in one
process; and the memory of three tasks.

    python bench/diffusers_engine.py
    python bench/diffusers_engine.py --model ./sd-folder --steps 20 --rounds 5

Safety checks off on both sides. Without --model: Stable Diffusion's architecture with
fewer channels, random weights.
Targets: at most 1.02 of the direct call's time; two more tasks cost no weights.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import psutil
import torch
from transformers import CLIPTextConfig, CLIPTextModel

import miaobi

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.engines.pipelines import clip_tokenizer, picture_vae

PHOTO = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
TASKS: dict[str, dict[str, Any]] = {
    "text": {},
    "image": {"image": PHOTO},
    "mask": {"image": PHOTO, "mask": PHOTO},
}


def write(folder: Path) -> Path:
    """Stable Diffusion 1.5 with its layers and fewer channels: 128 x 128 pixels,
    latents of 16 x 16.
    """
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    end = len(tokenizer) - 1
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=end + 1,
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
            hidden_size=768,
            num_hidden_layers=6,
        )
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128, 256, 256),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=768,
    )
    diffusers.StableDiffusionPipeline(
        vae=picture_vae(4, depth=4),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(str(folder))
    return folder


def speed(folder: Path, steps: int, rounds: int, n: int) -> dict[str, Any]:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        str(folder), use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    seconds: dict[str, list[float]] = {"engine": [], "direct": []}
    with miaobi.load(folder, safety_checker=False) as model:
        for turn in range(rounds + 1):
            began = time.perf_counter()
            ours = model.generate(
                "a fox in the snow", seed=turn, n=n, num_inference_steps=steps
            )
            middle = time.perf_counter()
            generators = [
                torch.Generator().manual_seed(turn + index) for index in range(n)
            ]
            theirs = pipeline(
                "a fox in the snow",
                generator=generators,
                num_images_per_prompt=n,
                num_inference_steps=steps,
            ).images
            if turn:
                seconds["engine"].append(middle - began)
                seconds["direct"].append(time.perf_counter() - middle)
            apart = max(
                int(np.abs(one.pixels.astype(int) - np.asarray(other)).max())
                for one, other in zip(ours, theirs, strict=True)
            )
            assert apart <= (0 if n == 1 else 2), (
                f"the pictures differ by {apart} of 255"
            )
    ratios = sorted(
        one / other for one, other in zip(seconds["engine"], seconds["direct"])
    )
    return {
        "n": n,
        "steps": steps,
        "seconds": {
            name: round(statistics.median(values), 3)
            for name, values in seconds.items()
        },
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
    }


def memory(folder: Path) -> dict[str, Any]:
    """Megabytes that the process grows by: opening and painting, the two other tasks,
    and what separate pipelines would take.
    """

    def resident() -> float:
        gc.collect()
        return psutil.Process().memory_info().rss / 1e6

    figures = {}
    start = resident()
    with miaobi.load(folder, safety_checker=False) as model:
        size = PHOTO.shape[0]
        model.generate("a fox", num_inference_steps=1, width=size, height=size)
        figures["open and text"], before = round(resident() - start), resident()
        for task in ("image", "mask"):
            model.generate("a fox", num_inference_steps=2, **TASKS[task])
        figures["two more tasks"], before = round(resident() - before), resident()
        parts = [
            part
            for part in model.engine.pipelines.own.components.values()
            if isinstance(part, torch.nn.Module)
        ]
        figures["weights"] = round(
            sum(weight.nbytes for part in parts for weight in part.parameters()) / 1e6
        )
        others = [
            getattr(diffusers, kind).from_pretrained(str(folder))
            for kind in (
                "StableDiffusionImg2ImgPipeline",
                "StableDiffusionInpaintPipeline",
            )
        ]
        for (
            other
        ) in others:  # weights are mapped from the file and count once they are read
            for part in other.components.values():
                if isinstance(part, torch.nn.Module):
                    sum(float(weight.detach().sum()) for weight in part.parameters())
        figures["two pipelines opened beside it"] = round(resident() - before)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    diffusers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        folder = options.model or write(Path(place) / "pipeline")
        megabytes = memory(folder)
        rows = [speed(folder, options.steps, options.rounds, n) for n in (1, 4)]
    print(
        json.dumps(
            {
                "speed": rows,
                "megabytes": megabytes,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
            },
            indent=1,
        )
    )
    sys.exit(0 if rows[0]["ratio"] <= 1.02 else 1)


if __name__ == "__main__":
    main()
