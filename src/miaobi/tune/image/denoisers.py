"""Diffusers pipelines as denoisers: how each reads a caption, how it predicts, and which
noise it is trained with.

    epsilon, v-prediction    x_t = √ᾱ_t x + √(1-ᾱ_t) ε;   the target is ε,
                             or v = √ᾱ_t ε - √(1-ᾱ_t) x   (Stable Diffusion 1.5, 2, XL)
    flow                     x_σ = (1 - σ) x + σ ε;        the target is ε - x
                                                          (Stable Diffusion 3, FLUX)

Which of them holds is in the pipeline's scheduler. The formulas are those of Diffusers'
training scripts (examples/text_to_image, examples/dreambooth).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_snr
from torch import Tensor

from miaobi.core.errors import Unsupported
from miaobi.core.language import say


class NoisyLatents(NamedTuple):
    """Latents with noise, and what is learned of them."""

    noisy: Tensor
    """[B, C, h, w]"""
    times: Tensor
    """As the network takes them, [B]."""
    target: Tensor
    """[B, C, h, w]"""
    weight: Tensor
    """Of each example in the loss, [B]."""


class NoiseSchedule(ABC):
    """Draws times and makes noisy latents with their targets."""

    scheduler: Any
    """Diffusers' own."""

    @property
    def length(self) -> int:
        """How many times there are."""
        return int(self.scheduler.config.num_train_timesteps)

    @abstractmethod
    def draw(self, count: int) -> Tensor:
        """Return indices of times, int64 [count], from PyTorch's random state."""

    def spread(self, count: int) -> Tensor:
        """Return `count` indices evenly over all times, for evaluation."""
        return ((torch.arange(count) + 0.5) / count * self.length).long()

    @abstractmethod
    def add_noise(
        self, latents: Tensor, noise: Tensor, indices: Tensor
    ) -> NoisyLatents:
        """Return latents with noise: latents and noise [B, C, h, w], indices [B]."""


class Diffusion(NoiseSchedule):
    """Times are drawn evenly.

    Args:
        scheduler: of the pipeline.
        min_snr_gamma: weights are min(SNR, γ) / SNR, for v over SNR + 1 (Hang et al.
            2023, arXiv:2303.09556); 0 for equal ones.
    """

    def __init__(self, scheduler: Any, min_snr_gamma: float) -> None:
        from_config: Callable[[Any], Any] = DDPMScheduler.from_config
        self.scheduler = from_config(scheduler.config)
        self.gamma = min_snr_gamma
        self.kind = self.scheduler.config.prediction_type
        if self.kind not in ("epsilon", "v_prediction"):
            raise Unsupported(
                say(
                    f"prediction_type of its scheduler is {self.kind!r}.",
                    f"其调度器的预测类型为 {self.kind!r}。",
                ),
                say(
                    "Choose a pipeline that predicts epsilon or v_prediction.",
                    "请选用预测 epsilon 或 v_prediction 的模型。",
                ),
            )

    def draw(self, count: int) -> Tensor:
        return torch.randint(0, self.length, (count,))

    def add_noise(
        self, latents: Tensor, noise: Tensor, indices: Tensor
    ) -> NoisyLatents:
        times = indices.to(latents.device)
        noisy = self.scheduler.add_noise(latents, noise, times)
        target = noise
        if self.kind == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, times)
        return NoisyLatents(noisy, times, target, self._weight(times))

    def _weight(self, times: Tensor) -> Tensor:
        if not self.gamma:
            return torch.ones(len(times), device=times.device)
        snr_of: Callable[[Any, Tensor], Tensor] = compute_snr
        snr = snr_of(self.scheduler, times)
        return snr.clamp(max=self.gamma) / (snr if self.kind == "epsilon" else snr + 1)


class Flow(NoiseSchedule):
    """Times are drawn logit-normally: the middle of the way is the hardest (Esser et
    al. 2024, arXiv:2403.03206).
    """

    def __init__(self, scheduler: Any) -> None:
        from_config: Callable[[Any], Any] = FlowMatchEulerDiscreteScheduler.from_config
        self.scheduler = from_config(scheduler.config)

    def draw(self, count: int) -> Tensor:
        share: Tensor = compute_density_for_timestep_sampling(
            "logit_normal", count, logit_mean=0.0, logit_std=1.0
        )
        return (share * self.length).long()

    def add_noise(
        self, latents: Tensor, noise: Tensor, indices: Tensor
    ) -> NoisyLatents:
        times = self.scheduler.timesteps[indices].to(latents.device)
        sigmas = self.scheduler.sigmas[indices].to(latents.device)
        sigma = sigmas.view(-1, 1, 1, 1)
        noisy = (1 - sigma) * latents + sigma * noise
        weight = torch.ones(len(times), device=latents.device)
        return NoisyLatents(noisy, times, noise - latents, weight)


class Denoiser(ABC):
    """What is particular to a pipeline's class."""

    part: str
    """Its component that is tuned."""
    blocks = ""
    """The name of the list of its layers; empty where there is none."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    @property
    def net(self) -> Any:
        return self.pipeline.components[self.part]

    @abstractmethod
    def encode_caption(
        self, caption: str, device: torch.device
    ) -> Mapping[str, Tensor]:
        """Return what the text encoders make of a caption, without a batch axis.

        "text", and what else the network takes of it.
        """

    @abstractmethod
    def predict(
        self, net: Any, noisy: Tensor, times: Tensor, batch: Mapping[str, Tensor]
    ) -> Tensor:
        """Return what the network predicts as the target, [B, C, h, w].

        Args:
            net: the component that is tuned, with its adapters.
            noisy: latents [B, C, h, w].
            times: [B].
            batch: captions as `encode_caption` gives them, with a batch axis.
        """

    @property
    def side(self) -> int:
        """Pixels of a side that the network was made for."""
        size = self.net.config.sample_size
        latent_side = size if isinstance(size, int) else size[0]
        return int(latent_side) * self.factor

    @property
    def factor(self) -> int:
        """Pixels of a side to one position of the latents."""
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
        text, _ = self.pipeline.encode_prompt(caption, device, 1, False)
        return {"text": text[0]}

    def predict(
        self, net: Any, noisy: Tensor, times: Tensor, batch: Mapping[str, Tensor]
    ) -> Tensor:
        output: Tensor = net(noisy, times, encoder_hidden_states=batch["text"]).sample
        return output


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
        """The network also takes the picture's own size, where it was cut, and the size
        it has now (Podell et al. 2023, arXiv:2307.01952).
        """
        conditions = {"text_embeds": batch["pooled"], "time_ids": batch["sizes"]}
        output: Tensor = net(
            noisy,
            times,
            encoder_hidden_states=batch["text"],
            added_cond_kwargs=conditions,
        ).sample
        return output


class StableDiffusion3(Denoiser):
    part = "transformer"
    blocks = "transformer_blocks"

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
        output: Tensor = net(
            hidden_states=noisy,
            timestep=times,
            encoder_hidden_states=batch["text"],
            pooled_projections=batch["pooled"],
        ).sample
        return output


class Flux(Denoiser):
    part = "transformer"
    blocks = "transformer_blocks"
    GUIDANCE = 3.5
    """The guidance that a distilled network gets, as in its pipeline and in Diffusers'
    script.
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
        """Two by two positions of the latents are one token."""
        count, channels, height, width = noisy.shape
        device = noisy.device
        image_ids = FluxPipeline._prepare_latent_image_ids(
            count, height // 2, width // 2, device, noisy.dtype
        )
        text_ids = torch.zeros(batch["text"].shape[1], 3, device=device)
        guidance: Tensor | None = None
        if self.net.config.guidance_embeds:
            guidance = torch.full((count,), self.GUIDANCE, device=device)
        output = net(
            hidden_states=FluxPipeline._pack_latents(
                noisy, count, channels, height, width
            ),
            timestep=times / 1000,
            guidance=guidance,
            pooled_projections=batch["pooled"],
            encoder_hidden_states=batch["text"],
            txt_ids=text_ids,
            img_ids=image_ids,
        ).sample
        latents: Tensor = FluxPipeline._unpack_latents(
            output, height * self.factor, width * self.factor, self.factor
        )
        return latents


KINDS: dict[str, type[Denoiser]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}


def denoiser_of(pipeline: Any, name: str) -> Denoiser:
    """Return what is particular to the pipeline's class.

    Raises Unsupported for a pipeline that cannot be tuned here, naming those that can.
    """
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
    """Return what the pipeline's own scheduler says.

    Raises Unsupported for a min-SNR weight on a flow, whose weights are in the draw of
    times.
    """
    if "Flow" not in type(pipeline.scheduler).__name__:
        return Diffusion(pipeline.scheduler, min_snr_gamma)
    if min_snr_gamma:
        raise Unsupported(
            say(
                "head.min_snr_gamma is for models that predict noise; this one learned a flow.",
                "head.min_snr_gamma 只用于预测噪声的模型；此模型学习的是流。",
            ),
            say("Leave it out.", "请去掉它。"),
        )
    return Flow(pipeline.scheduler)
