"""Diffusers pipelines as denoisers: how each is told a caption, how it is asked for the
noise, and which noise it is trained with.

    epsilon, v-prediction    x_t = √ᾱ_t x + √(1-ᾱ_t) ε;   the target is ε, or v = √ᾱ_t ε - √(1-ᾱ_t) x     (Stable Diffusion 1.5, 2, XL)
    flow                     x_σ = (1 - σ) x + σ ε;        the target is ε - x                              (Stable Diffusion 3, FLUX)

Which of them holds is in the pipeline's scheduler. The formulas are those of Diffusers'
training scripts (examples/text_to_image, examples/dreambooth).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_snr
from torch import Tensor

from miaobi.core.errors import Unsupported
from miaobi.core.language import say


class Noised(NamedTuple):
    noisy: Tensor
    times: Tensor
    target: Tensor
    weight: Tensor
    """Of each example in the loss, [B]."""


class NoiseSchedule(ABC):
    """Draws times and makes noisy latents with their targets."""

    @abstractmethod
    def draw(self, count: int) -> Tensor:
        """Indices of times, int64 [count], from PyTorch's random state."""

    @abstractmethod
    def spread(self, count: int) -> Tensor:
        """`count` times evenly over all, for judging."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, indices: Tensor) -> Noised:
        """latents, noise [B, C, h, w]."""


class Diffusion(NoiseSchedule):
    """min_snr_gamma: weights min(SNR, γ) / SNR, for v over SNR + 1 (Hang et al. 2023,
    arXiv:2303.09556); 0 for equal ones.
    """

    def __init__(self, scheduler: Any, min_snr_gamma: float) -> None:
        self.scheduler: Any = DDPMScheduler.from_config(scheduler.config)
        self.gamma, self.kind = min_snr_gamma, self.scheduler.config.prediction_type
        if self.kind not in ("epsilon", "v_prediction"):
            raise Unsupported(
                say(
                    f"Its scheduler foretells {self.kind!r}.",
                    f"其调度器的预测类型为 {self.kind!r}。",
                ),
                say(
                    "Choose a pipeline that foretells epsilon or v_prediction.",
                    "请选用预测 epsilon 或 v_prediction 的模型。",
                ),
            )

    @property
    def length(self) -> int:
        return int(self.scheduler.config.num_train_timesteps)

    def draw(self, count: int) -> Tensor:
        return torch.randint(0, self.length, (count,))

    def spread(self, count: int) -> Tensor:
        return ((torch.arange(count) + 0.5) / count * self.length).long()

    def add_noise(self, latents: Tensor, noise: Tensor, indices: Tensor) -> Noised:
        times = indices.to(latents.device)
        noisy = self.scheduler.add_noise(latents, noise, times)
        target = (
            noise
            if self.kind == "epsilon"
            else self.scheduler.get_velocity(latents, noise, times)
        )
        return Noised(
            noisy,
            times,
            target,
            self._weight(times)
            if self.gamma
            else torch.ones(len(times), device=latents.device),
        )

    def _weight(self, times: Tensor) -> Tensor:
        snr = compute_snr(self.scheduler, times)
        return snr.clamp(max=self.gamma) / (snr if self.kind == "epsilon" else snr + 1)


class Flow(NoiseSchedule):
    """Times are drawn logit-normally: the middle of the way is the hardest (Esser et
    al. 2024, arXiv:2403.03206).
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(
            scheduler.config
        )

    @property
    def length(self) -> int:
        return int(self.scheduler.config.num_train_timesteps)

    def draw(self, count: int) -> Tensor:
        share = compute_density_for_timestep_sampling(
            "logit_normal", count, logit_mean=0.0, logit_std=1.0
        )
        return (share * self.length).long()

    def spread(self, count: int) -> Tensor:
        return ((torch.arange(count) + 0.5) / count * self.length).long()

    def add_noise(self, latents: Tensor, noise: Tensor, indices: Tensor) -> Noised:
        times, sigmas = (
            values[indices].to(latents.device)
            for values in (self.scheduler.timesteps, self.scheduler.sigmas)
        )
        sigma = sigmas.view(-1, 1, 1, 1)
        return Noised(
            (1 - sigma) * latents + sigma * noise,
            times,
            noise - latents,
            torch.ones(len(times), device=latents.device),
        )


class Denoiser(ABC):
    """What is particular to a pipeline's class."""

    part: str
    """Its component that is tuned."""
    blocks = ""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    @property
    def net(self) -> Any:
        return self.pipeline.components[self.part]

    @abstractmethod
    def encode_caption(
        self, caption: str, device: torch.device
    ) -> Mapping[str, Tensor]:
        """What the text encoders make of a caption, without a batch axis: "text", and
        what else the network is told.
        """

    @abstractmethod
    def predict(
        self, net: Any, noisy: Tensor, times: Tensor, batch: Mapping[str, Tensor]
    ) -> Tensor:
        """What the network takes the target for, [B, C, h, w]."""

    @property
    def side(self) -> int:
        """Pixels of a side that the network was made for."""
        size = self.net.config.sample_size
        return int(size if isinstance(size, int) else size[0]) * self.factor

    @property
    def factor(self) -> int:
        """Pixels to a latent place."""
        return int(2 ** (len(self.pipeline.vae.config.block_out_channels) - 1))

    @property
    def multiple(self) -> int:
        """Sides are multiples of this many pixels."""
        return self.factor * 8


class StableDiffusion(Denoiser):
    part = "unet"

    def encode_caption(
        self, caption: str, device: torch.device
    ) -> Mapping[str, Tensor]:
        return {"text": self.pipeline.encode_prompt(caption, device, 1, False)[0][0]}

    def predict(
        self, net: Any, noisy: Tensor, times: Tensor, batch: Mapping[str, Tensor]
    ) -> Tensor:
        found: Tensor = net(noisy, times, encoder_hidden_states=batch["text"]).sample
        return found


class StableDiffusionXL(Denoiser):
    part = "unet"

    def encode_caption(
        self, caption: str, device: torch.device
    ) -> Mapping[str, Tensor]:
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=caption,
            device=device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return {"text": text[0], "pooled": pooled[0]}

    def predict(
        self, net: Any, noisy: Tensor, times: Tensor, batch: Mapping[str, Tensor]
    ) -> Tensor:
        """The network is also told the picture's own size, where it was cut, and the
        size it has now (Podell et al. 2023, arXiv:2307.01952).
        """
        extra = {"text_embeds": batch["pooled"], "time_ids": batch["sizes"]}
        found: Tensor = net(
            noisy, times, encoder_hidden_states=batch["text"], added_cond_kwargs=extra
        ).sample
        return found


class StableDiffusion3(Denoiser):
    part, blocks = "transformer", "transformer_blocks"

    def encode_caption(
        self, caption: str, device: torch.device
    ) -> Mapping[str, Tensor]:
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=caption,
            prompt_2=None,
            prompt_3=None,
            device=device,
            do_classifier_free_guidance=False,
        )
        return {"text": text[0], "pooled": pooled[0]}

    def predict(
        self, net: Any, noisy: Tensor, times: Tensor, batch: Mapping[str, Tensor]
    ) -> Tensor:
        found: Tensor = net(
            hidden_states=noisy,
            timestep=times,
            encoder_hidden_states=batch["text"],
            pooled_projections=batch["pooled"],
        ).sample
        return found


class Flux(Denoiser):
    part, blocks = "transformer", "transformer_blocks"
    GUIDANCE = 3.5
    """What the distilled network is told about guidance, as in its pipeline and in
    Diffusers' script.
    """

    @property
    def side(self) -> int:
        return int(self.pipeline.default_sample_size) * self.factor

    def encode_caption(
        self, caption: str, device: torch.device
    ) -> Mapping[str, Tensor]:
        text, pooled, _ = self.pipeline.encode_prompt(
            prompt=caption, prompt_2=None, device=device
        )
        return {"text": text[0], "pooled": pooled[0]}

    def predict(
        self, net: Any, noisy: Tensor, times: Tensor, batch: Mapping[str, Tensor]
    ) -> Tensor:
        """Two by two latent places are one token."""
        count, channels, height, width = noisy.shape
        settings = self.net.config
        ids = FluxPipeline._prepare_latent_image_ids(
            count, height // 2, width // 2, noisy.device, noisy.dtype
        )
        words = torch.zeros(batch["text"].shape[1], 3, device=noisy.device)
        guidance = (
            torch.full((count,), self.GUIDANCE, device=noisy.device)
            if settings.guidance_embeds
            else None
        )
        packed = FluxPipeline._pack_latents(noisy, count, channels, height, width)
        made = net(
            hidden_states=packed,
            timestep=times / 1000,
            guidance=guidance,
            pooled_projections=batch["pooled"],
            encoder_hidden_states=batch["text"],
            txt_ids=words,
            img_ids=ids,
        ).sample
        found: Tensor = FluxPipeline._unpack_latents(
            made, height * self.factor, width * self.factor, self.factor
        )
        return found


KINDS: dict[str, type[Denoiser]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}


def denoiser_of(pipeline: Any, name: str) -> Denoiser:
    """Raises Unsupported for a pipeline that cannot be tuned here, naming those that can."""
    kind = KINDS.get(type(pipeline).__name__)
    if kind is None:
        raise Unsupported(
            say(
                f"{name} is a {type(pipeline).__name__}, which is not tuned here.",
                f"{name} 属于 {type(pipeline).__name__}，此处不能微调。",
            ),
            say(f"These are: {', '.join(KINDS)}.", f"可以微调：{'、'.join(KINDS)}。"),
        )
    return kind(pipeline)


def noise_schedule_of(pipeline: Any, min_snr_gamma: float) -> NoiseSchedule:
    """By the pipeline's own scheduler. Raises Unsupported for a min-SNR weight on a
    flow, whose weights are in the draw of times.
    """
    if "Flow" not in type(pipeline.scheduler).__name__:
        return Diffusion(pipeline.scheduler, min_snr_gamma)
    if min_snr_gamma:
        raise Unsupported(
            say(
                "head.min_snr_gamma is for models that foretell noise; this one learned a flow.",
                "head.min_snr_gamma 只用于预测噪声的模型；此模型学习的是流。",
            ),
            say("Leave it out.", "请去掉它。"),
        )
    return Flow(pipeline.scheduler)
