"""A picture generator tuned on a folder of pictures: a style by their captions, or a
subject by a word of its own (DreamBooth).

    L_i = w(t) mean (net(x_t, t, caption) - target)²      tune/image/denoisers.py has x_t, the target and w

With a class prompt, pictures of the class as the base paints it are learned beside, so
that a dog is not forgotten over this one dog: L_i + λ L_prior (Ruiz et al. 2022,
arXiv:2208.12242). Pictures and captions go through the autoencoder and the text
encoders once; the distribution of a picture's latents is kept, and a latent drawn from
it anew in every step, as Diffusers' scripts do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.files import home, write_beside
from miaobi.core.language import say
from miaobi.data.image.folders import files_in
from miaobi.data.labelled.images import picture_columns, picture_of
from miaobi.data.progress import bar
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.image.denoisers import (
    Denoiser,
    StableDiffusionXL,
    denoiser_of,
    noise_schedule_of,
)
from miaobi.tune.image.input import open_rgb
from miaobi.tune.image.metrics import shares
from miaobi.tune.learner import Evaluation, Example, Features, Learner, Metric

NAME = "diffusion"
SUMMARY = (
    "pictures from captions, by a Diffusers pipeline",
    "由文字生成图片（Diffusers 模型）",
)
MODALITY, READER, MAKES = "image", "pictures", "image"
EXAMPLE = '{"image": "photos/a.jpg", "caption": "a red fox in the snow"}'
PIPELINE = "model_index.json"
TIMES = 4
"""At so many times each held-out picture is judged, always with the same noise."""


@dataclass(frozen=True)
class Config:
    image_size: int = 0
    """Pixels of a side; 0 for the pipeline's own. Pictures are cut to squares."""
    instance_prompt: str = ""
    """DreamBooth: the caption of every picture, with a rare word for the subject: "a
    photo of sks dog".
    """
    class_prompt: str = ""
    """DreamBooth: the same without the word, "a photo of a dog": what is to stay as it
    is. Empty for no such term.
    """
    class_path: str = ""
    """A folder with pictures of the class; empty to have the base paint them."""
    class_pictures: int = 20
    """So many are painted."""
    prior_weight: float = 1.0
    """Weight λ of the class."""
    min_snr_gamma: float = 0.0
    """Weight of little noise is capped at this signal-to-noise ratio, 5 as a rule; 0
    for equal weights.
    """
    caption_dropout: float = 0.0
    """Share of captions left empty in training, which keeps guidance sound in long runs."""

    def __post_init__(self) -> None:
        if (self.class_path or self.class_prompt) and not (
            self.class_prompt and self.instance_prompt
        ):
            raise BadInput(
                say(
                    "A class needs head.class_prompt and head.instance_prompt.",
                    "类别项需要 head.class_prompt 与 head.instance_prompt。",
                ),
                say(
                    'Such as "a photo of a dog" and "a photo of sks dog".',
                    '例如 "a photo of a dog" 与 "a photo of sks dog"。',
                ),
            )
        if not 0 <= self.caption_dropout < 1:
            raise BadInput(
                say(
                    f"head.caption_dropout is {self.caption_dropout}.",
                    f"head.caption_dropout 为 {self.caption_dropout}。",
                ),
                say("Give a share in [0, 1).", "请给出 [0, 1) 之间的比例。"),
            )


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    picture = picture_of(record, EXAMPLE)
    caption = config.instance_prompt or record.get("caption") or record.get("text")
    if not isinstance(caption, str) or not caption.strip():
        raise Unusable(
            say(
                f"no caption; the columns are: {', '.join(map(str, record))}.",
                f"缺少 caption；现有的列：{'、'.join(map(str, record))}。",
            ),
            say(
                "Write metadata.jsonl with file_name and caption, name the "
                "column with data.columns.caption, or give all one "
                "head.instance_prompt.",
                "请在 metadata.jsonl 中写 file_name 与 caption，或用 "
                "data.columns.caption 指定列名，或用 head.instance_prompt "
                "给出统一的描述。",
            ),
        )
    return {**picture, "caption": caption.strip()}


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """The picture: the same one under two captions stays on one side of the split."""
    return picture_columns(columns)


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    return {
        "pictures": len(examples),
        "captions": len({example.columns["caption"] for example in examples}),
    }


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Any picture fits any other."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Painter:
    from miaobi.engines.diffusers import quiet

    if not (base.folder / PIPELINE).is_file():
        raise Unsupported(
            say(
                f"{base.name} is no Diffusers pipeline.",
                f"{base.name} 不是 Diffusers 模型。",
            ),
            say(
                f"Give a folder with {PIPELINE}, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5.",
                f"请给出含 {PIPELINE} 的文件夹，或 Hub 名称，如 stable-diffusion-v1-5/stable-diffusion-v1-5。",
            ),
        )
    with quiet():
        from miaobi.models import pipelines as diffusers_parts

        pipeline = diffusers_parts.load(
            base.folder, base.name, "cpu", torch.float32, diffusers_parts.Extras()
        ).own
    return Painter(denoiser_of(pipeline, base.name), base, config)


class Painter(Learner):
    """Batches: mean and std [B, C, h, w] of the latents, what the text encoders said of
    the captions, and a seed [B] for judging.
    """

    def __init__(self, denoiser: Denoiser, base: Base, config: Config) -> None:
        super().__init__(denoiser.net)
        self.denoiser, self.base, self.config, self.pipeline = (
            denoiser,
            base,
            config,
            denoiser.pipeline,
        )
        self.noising, self.blocks = (
            noise_schedule_of(self.pipeline, config.min_snr_gamma),
            denoiser.blocks,
        )
        self.side = config.image_size or denoiser.side
        if self.side % denoiser.multiple:
            step = denoiser.multiple
            raise BadInput(
                say(
                    f"head.image_size is {self.side}; {base.name} paints multiples of {step}.",
                    f"head.image_size 为 {self.side}；{base.name} 只能生成 {step} 的倍数。",
                ),
                say(
                    f"Take {max(self.side // step, 1) * step}.",
                    f"请用 {max(self.side // step, 1) * step}。",
                ),
            )
        self.net.requires_grad_(True)
        self.told = lru_cache(maxsize=4096)(self._told)
        self._class: list[Features] = []

    def length(self, columns: Mapping[str, Any]) -> int:
        return 0

    @torch.no_grad()
    def _told(self, caption: str) -> Mapping[str, np.ndarray]:
        self.pipeline.to(self.device)
        return {
            name: value.float().cpu().numpy()
            for name, value in self.denoiser.encode_caption(
                caption, self.device
            ).items()
        }

    @torch.no_grad()
    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        pixels, sizes = self._squared(columns["image"])
        self.pipeline.vae.to(self.device)
        latents = self.pipeline.vae.encode(pixels.to(self.device)).latent_dist
        seed = int(
            hashlib.sha256(
                str(columns.get("digest", columns["image"])).encode()
            ).hexdigest()[:12],
            16,
        )
        found = {
            "mean": latents.mean[0].cpu().numpy(),
            "std": latents.std[0].cpu().numpy(),
            "seed": np.array(seed),
            **self.told(columns["caption"]),
        }
        return (
            {**found, "sizes": sizes}
            if isinstance(self.denoiser, StableDiffusionXL)
            else found
        )

    def _squared(self, image: Any) -> tuple[Tensor, np.ndarray]:
        """The middle of the picture, float32 [1, 3, S, S] in [-1, 1]; and (height,
        width, top, left, S, S): its own size, the cut, the size now.
        """
        from PIL import Image

        picture = open_rgb(image)
        width, height = picture.size
        scale = self.side / min(width, height)
        across, down = (
            max(self.side, round(width * scale)),
            max(self.side, round(height * scale)),
        )
        left, top = (across - self.side) // 2, (down - self.side) // 2
        cut = picture.resize((across, down), Image.Resampling.LANCZOS).crop(
            (left, top, left + self.side, top + self.side)
        )
        pixels = (
            torch.from_numpy(np.array(cut)).permute(2, 0, 1)[None].float() / 127.5 - 1
        )
        return pixels, np.array(
            [height, width, top, left, self.side, self.side], np.float32
        )

    def collate(self, features: Sequence[Features]) -> Batch:
        return {
            name: torch.from_numpy(np.stack([item[name] for item in features]))
            for name in features[0]
        }

    def scaled(self, latents: Tensor) -> Tensor:
        """As the network sees them: (z - shift) · scale of the autoencoder."""
        settings = self.pipeline.vae.config
        return (
            latents - (settings.get("shift_factor") or 0.0)
        ) * settings.scaling_factor

    def prepare(self, batch: Batch) -> Batch:
        ready = {name: value.to(self.device) for name, value in batch.items()}
        if self.training and self.config.caption_dropout:
            silent, empty = (
                torch.rand(len(ready["mean"])) < self.config.caption_dropout,
                self.told(""),
            )
            for name, value in empty.items():
                ready[name] = torch.where(
                    silent.to(self.device).view(-1, *[1] * value.ndim),
                    torch.from_numpy(value).to(self.device),
                    ready[name],
                )
        return ready

    def errors(
        self,
        batch: Batch,
        latents: Tensor,
        noise: Tensor,
        indices: Tensor,
        weighted: bool,
    ) -> Tensor:
        """[B]."""
        noised = self.noising.add_noise(latents, noise, indices)
        found = self.denoiser.predict(self.net, noised.noisy, noised.times, batch)
        errors = (found.float() - noised.target.float()).square().mean((1, 2, 3))
        return errors * noised.weight if weighted else errors

    def loss(self, batch: Batch) -> Loss:
        count, prior = len(batch["mean"]), None
        if self.training and self.config.class_prompt:
            self._class = self._class or self._encoded_class()
            drawn = self.collate(
                [
                    self._class[place]
                    for place in torch.randint(len(self._class), (count,)).tolist()
                ]
            )
            batch = {
                name: torch.cat([value, drawn[name].to(value.device)])
                for name, value in batch.items()
            }
        latents = self.scaled(
            batch["mean"] + batch["std"] * torch.randn_like(batch["mean"])
        )
        noise = torch.randn_like(latents)
        errors = self.errors(
            batch, latents, noise, self.noising.draw(len(latents)), weighted=True
        )
        if len(errors) > count:
            prior = errors[count:].sum()
            return Loss(
                errors[:count].sum() + self.config.prior_weight * prior,
                count,
                {"prior": prior.detach()},
            )
        return Loss(errors.sum(), count)

    def _encoded_class(self) -> list[Features]:
        """Pictures of the class, painted first where there are none: now, at the first
        step, the network is still the base.
        """
        folder = (
            Path(self.config.class_path).expanduser()
            if self.config.class_path
            else self._painted()
        )
        files = files_in(folder) if folder.is_dir() else []
        if not files:
            raise BadInput(
                say(
                    f"head.class_path {folder} holds no pictures.",
                    f"head.class_path {folder} 中没有图片。",
                ),
                say(
                    "Leave it out to have the base paint them.",
                    "去掉它则由基础模型生成。",
                ),
            )
        return [
            self.encode({"image": file, "caption": self.config.class_prompt}, 0)
            for file in files
        ]

    @torch.no_grad()
    def _painted(self) -> Path:
        known = f"{self.base.identity} {self.config.class_prompt} {self.config.class_pictures} {self.side}"
        folder = (
            home()
            / "examples"
            / f"class-{hashlib.sha256(known.encode()).hexdigest()[:16]}"
        )
        if folder.exists():
            return folder
        self.pipeline.to(self.device)
        training = self.net.training
        self.net.eval()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with write_beside(folder) as draft, bar() as shown:
            draft.mkdir()
            for number in range(self.config.class_pictures):
                made = self.pipeline(
                    prompt=self.config.class_prompt,
                    height=self.side,
                    width=self.side,
                    generator=torch.Generator("cpu").manual_seed(number),
                )
                made.images[0].save(draft / f"{number:04}.png")
                shown(
                    say("Painting the class", "生成类别图片"),
                    number + 1,
                    self.config.class_pictures,
                )
        self.net.train(training)
        return folder

    def metrics(self) -> Sequence[Metric]:
        return [
            Metric(
                "denoising_error",
                shares,
                "lower",
                (
                    "Error of the foretold noise on held-out pictures",
                    "留出图片上的噪声预测误差",
                ),
            )
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        batch = self.prepare(batch)
        latents = self.scaled(batch["mean"])
        generators = [
            torch.Generator("cpu").manual_seed(int(seed)) for seed in batch["seed"]
        ]
        total = torch.zeros(len(latents), device=latents.device)
        for index in self.noising.spread(TIMES):
            noise = torch.stack(
                [
                    torch.randn(latents.shape[1:], generator=generator)
                    for generator in generators
                ]
            ).to(latents.device)
            total += self.errors(
                batch, latents, noise, index.expand(len(latents)), weighted=False
            )
        return [
            Evaluation(
                error / TIMES, {"denoising_error": np.array([error, TIMES], np.float64)}
            )
            for error in total.tolist()
        ]

    def save(self, folder: Path) -> None:
        """An adapter also in Diffusers' layout, for other tools; whole weights as a
        whole pipeline.
        """
        from peft import PeftModel

        if not isinstance(self.net, PeftModel):
            self.pipeline.save_pretrained(folder)
            return
        from peft.utils import get_peft_model_state_dict

        state = {
            name.removeprefix("base_model.model."): value.detach().cpu().contiguous()
            for name, value in get_peft_model_state_dict(self.net).items()
        }
        if not any(".lora_A." in name for name in state):
            return
        settings = {
            name: value
            for name, value in self.net.peft_config["default"].to_dict().items()
            if name in ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora")
        }
        settings["target_modules"] = sorted(settings["target_modules"])
        part = self.denoiser.part
        self.pipeline.save_lora_weights(
            folder,
            **{f"{part}_lora_layers": state, f"{part}_lora_adapter_metadata": settings},
        )
