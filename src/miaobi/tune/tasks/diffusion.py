"""Tune an image generator on a folder of images: a style by their captions, or a
subject by a word of its own (DreamBooth).

    L_i = w(t) mean (net(x_t, t, caption) - target)²      tune/image/denoisers.py has x_t, the target and w

With a class prompt, images of the class as the base paints it are learned as well, so
that dogs are not forgotten over this one dog: L_i + λ L_prior (Ruiz et al. 2022,
arXiv:2208.12242). Images and captions go through the autoencoder and the text encoders
once; the distribution of an image's latents is stored, and a latent drawn from it anew
in every step, as Diffusers' scripts do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.files import home, write_beside
from miaobi.core.language import say
from miaobi.data.image.listing import files_in
from miaobi.data.labelled.images import picture_columns, picture_of
from miaobi.data.progress import bar
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base
from miaobi.models.quiet import quiet_diffusers
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.heads import DiffusionHead as Config
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
MODALITY = "image"
READER = "labelled/images"
MAKES = "image"
ASK = "--prompt ..."
EXAMPLE = '{"image": "photos/a.jpg", "caption": "a red fox in the snow"}'
PIPELINE = "model_index.json"
EVALUATION_TIMES = 4
"""At so many times each held-out image is evaluated, always with the same noise."""
LORA_SETTINGS = ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora")
"""What Diffusers reads of a LoRA's settings."""
CAPTIONS = 4096
"""How many encoded captions stay in memory."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    image = picture_of(record, EXAMPLE)
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
    return {**image, "caption": caption.strip()}


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the image: under two captions it stays on one side of the split."""
    return picture_columns(columns)


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    return {
        "pictures": len(examples),
        "captions": len({example.columns["caption"] for example in examples}),
    }


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Any image fits any other."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> DiffusionLearner:
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
    with quiet_diffusers():
        from miaobi.models import pipelines

        pipeline = pipelines.load(
            base.folder, base.name, "cpu", torch.float32, pipelines.Extras()
        ).own
    return DiffusionLearner(denoiser_of(pipeline, base.name), base, config)


class DiffusionLearner(Learner):
    """The denoiser of a Diffusers pipeline.

    Batches have mean and std [B, C, h, w] of the latents, what the text encoders make
    of the captions, and a seed [B] for the noise of evaluations.
    """

    def __init__(self, denoiser: Denoiser, base: Base, config: Config) -> None:
        super().__init__(denoiser.net)
        self.denoiser = denoiser
        self.base = base
        self.config = config
        self.pipeline = denoiser.pipeline
        self.noising = noise_schedule_of(self.pipeline, config.min_snr_gamma)
        self.blocks = denoiser.blocks
        self.side = config.image_size or denoiser.side
        _check_side(self.side, denoiser.multiple, base.name)
        self.net.requires_grad_(True)
        self.caption_features = lru_cache(maxsize=CAPTIONS)(self._encode_caption)
        self._class_features: list[Features] = []

    def length(self, columns: Mapping[str, Any]) -> int:
        return 0

    @torch.no_grad()
    def _encode_caption(self, caption: str) -> Mapping[str, np.ndarray]:
        self.pipeline.to(self.device)
        tensors = self.denoiser.encode_caption(caption, self.device)
        return {name: value.float().cpu().numpy() for name, value in tensors.items()}

    @torch.no_grad()
    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        pixels, sizes = self._crop(columns["image"])
        self.pipeline.vae.to(self.device)
        latents = self.pipeline.vae.encode(pixels.to(self.device)).latent_dist
        identity = str(columns.get("digest", columns["image"]))
        features = {
            "mean": latents.mean[0].cpu().numpy(),
            "std": latents.std[0].cpu().numpy(),
            "seed": np.array(_seed_of(identity)),
            **self.caption_features(columns["caption"]),
        }
        if isinstance(self.denoiser, StableDiffusionXL):
            features["sizes"] = sizes
        return features

    def _crop(self, image: Any) -> tuple[Tensor, np.ndarray]:
        """Return the middle square of an image, and its sizes.

        The square is float32 [1, 3, S, S] in [-1, 1]; the sizes are float32 (height,
        width, top, left, S, S): the image's own size, the crop, the size now.
        """
        from PIL import Image

        picture = open_rgb(image)
        width, height = picture.size
        scale = self.side / min(width, height)
        scaled_width = max(self.side, round(width * scale))
        scaled_height = max(self.side, round(height * scale))
        left = (scaled_width - self.side) // 2
        top = (scaled_height - self.side) // 2
        scaled = picture.resize((scaled_width, scaled_height), Image.Resampling.LANCZOS)
        square = scaled.crop((left, top, left + self.side, top + self.side))
        values = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float()
        sizes = [height, width, top, left, self.side, self.side]
        return values / 127.5 - 1, np.array(sizes, np.float32)

    def collate(self, features: Sequence[Features]) -> Batch:
        return {
            name: torch.from_numpy(np.stack([item[name] for item in features]))
            for name in features[0]
        }

    def scaled(self, latents: Tensor) -> Tensor:
        """Return latents as the network takes them: (z - shift) · scale."""
        settings = self.pipeline.vae.config
        shift = settings.get("shift_factor") or 0.0
        scaled: Tensor = (latents - shift) * settings.scaling_factor
        return scaled

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch; in training some captions are emptied."""
        ready = dict(batch)
        if not (self.training and self.config.caption_dropout):
            return ready
        dropped = torch.rand(len(ready["mean"])) < self.config.caption_dropout
        for name, value in self.caption_features("").items():
            row_dropped = dropped.to(self.device).view(-1, *[1] * value.ndim)
            empty = torch.from_numpy(value).to(self.device)
            ready[name] = torch.where(row_dropped, empty, ready[name])
        return ready

    def errors(
        self,
        batch: Batch,
        latents: Tensor,
        noise: Tensor,
        indices: Tensor,
        weighted: bool,
    ) -> Tensor:
        """Return the mean squared error of each prediction, [B].

        Args:
            batch: What the captions became.
            latents: Scaled, [B, C, h, w].
            noise: [B, C, h, w].
            indices: Of the times, int64 [B].
            weighted: Whether to multiply by w(t).
        """
        noised = self.noising.add_noise(latents, noise, indices)
        predicted = self.denoiser.predict(self.net, noised.noisy, noised.times, batch)
        squares = (predicted.float() - noised.target.float()).square()
        errors = squares.mean((1, 2, 3))
        return errors * noised.weight if weighted else errors

    def loss(self, batch: Batch) -> Loss:
        count = len(batch["mean"])
        if self.training and self.config.class_prompt:
            batch = self._with_class_images(batch)
        latents = self.scaled(
            batch["mean"] + batch["std"] * torch.randn_like(batch["mean"])
        )
        noise = torch.randn_like(latents)
        indices = self.noising.draw(len(latents))
        errors = self.errors(batch, latents, noise, indices, weighted=True)
        if len(errors) == count:
            return Loss(errors.sum(), count)
        prior = errors[count:].sum()
        total = errors[:count].sum() + self.config.prior_weight * prior
        return Loss(total, count, {"prior": prior.detach()})

    def _with_class_images(self, batch: Batch) -> Batch:
        """Return the batch followed by as many images of the class."""
        if not self._class_features:
            self._class_features = self._encode_class()
        rows = torch.randint(len(self._class_features), (len(batch["mean"]),))
        drawn = self.collate([self._class_features[row] for row in rows.tolist()])
        return {
            name: torch.cat([value, drawn[name].to(value.device)])
            for name, value in batch.items()
        }

    def _encode_class(self) -> list[Features]:
        """Return images of the class, painted first where there are none.

        At the first step, when this is called, the network is still the base.
        """
        path = self.config.class_path
        folder = Path(path).expanduser() if path else self._paint_class()
        files = files_in(folder) if folder.is_dir() else []
        if not files:
            raise BadInput(
                say(
                    f"head.class_path {folder} holds no pictures.",
                    f"head.class_path {folder} 中没有图片。",
                ),
                say(
                    "Leave it out to have the base make them.",
                    "去掉它则由基础模型生成。",
                ),
            )
        caption = self.config.class_prompt
        return [self.encode({"image": file, "caption": caption}, 0) for file in files]

    @torch.no_grad()
    def _paint_class(self) -> Path:
        """Return a folder of images of the class, made by the base once."""
        config = self.config
        key = f"{self.base.identity} {config.class_prompt} {config.class_pictures} {self.side}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        folder = home() / "examples" / f"class-{digest[:16]}"
        if folder.exists():
            return folder
        self.pipeline.to(self.device)
        training = self.net.training
        self.net.eval()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with write_beside(folder) as draft, bar() as show_progress:
            draft.mkdir()
            for number in range(config.class_pictures):
                output = self.pipeline(
                    prompt=config.class_prompt,
                    height=self.side,
                    width=self.side,
                    generator=torch.Generator("cpu").manual_seed(number),
                )
                output.images[0].save(draft / f"{number:04}.png")
                show_progress(
                    say("Making pictures of the class", "生成类别图片"),
                    number + 1,
                    config.class_pictures,
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
                    "Error of the predicted noise on held-out pictures",
                    "留出图片上的噪声预测误差",
                ),
            )
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        latents = self.scaled(batch["mean"])
        generators = [
            torch.Generator("cpu").manual_seed(int(seed)) for seed in batch["seed"]
        ]
        total = torch.zeros(len(latents), device=latents.device)
        for index in self.noising.spread(EVALUATION_TIMES):
            noise = torch.stack(
                [torch.randn(latents.shape[1:], generator=one) for one in generators]
            ).to(latents.device)
            indices = index.expand(len(latents))
            total += self.errors(batch, latents, noise, indices, weighted=False)
        return [
            Evaluation(
                error / EVALUATION_TIMES,
                {"denoising_error": np.array([error, EVALUATION_TIMES], np.float64)},
            )
            for error in total.tolist()
        ]

    def save(self, folder: Path) -> None:
        """Write an adapter also in Diffusers' layout, for other tools.

        Whole weights are written as a whole pipeline.
        """
        from peft import PeftModel

        if isinstance(self.net, PeftModel):
            self._save_lora(self.net, folder)
        else:
            self.pipeline.save_pretrained(folder)

    def _save_lora(self, net: Any, folder: Path) -> None:
        """Write a LoRA; Diffusers has no layout for other adapters."""
        from peft.utils import get_peft_model_state_dict

        state = {
            name.removeprefix("base_model.model."): value.detach().cpu().contiguous()
            for name, value in get_peft_model_state_dict(net).items()
        }
        if not any(".lora_A." in name for name in state):
            return
        settings = {
            name: value
            for name, value in net.peft_config["default"].to_dict().items()
            if name in LORA_SETTINGS
        }
        settings["target_modules"] = sorted(settings["target_modules"])
        part = self.denoiser.part
        layers = {
            f"{part}_lora_layers": state,
            f"{part}_lora_adapter_metadata": settings,
        }
        self.pipeline.save_lora_weights(folder, **layers)


def _check_side(side: int, multiple: int, name: str) -> None:
    """Raise BadInput for a size that the pipeline cannot make."""
    if side % multiple == 0:
        return
    nearest = max(side // multiple, 1) * multiple
    raise BadInput(
        say(
            f"head.image_size is {side}; {name} makes multiples of {multiple}.",
            f"head.image_size 为 {side}；{name} 只能生成 {multiple} 的倍数。",
        ),
        say(f"Take {nearest}.", f"请用 {nearest}。"),
    )


def _seed_of(identity: str) -> int:
    """Return a seed of 48 bits, the same for the same image."""
    return int(hashlib.sha256(identity.encode()).hexdigest()[:12], 16)
