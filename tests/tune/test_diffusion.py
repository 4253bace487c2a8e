"""Diffusers pipelines tuned: the loss is that of Diffusers' scripts, and what is saved
opens in Diffusers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from diffusers.training_utils import compute_snr
from tests.engines import pipelines
from tests.tune.picture_sets import base_of, captioned, class_folders, examples_of
from torch.nn import functional as F

from miaobi.core.errors import BadInput, Unsupported
from miaobi.data.labelled.images import pictures
from miaobi.data.text.shapes import Unusable
from miaobi.nn.objective import prepared
from miaobi.tune import methods
from miaobi.tune.config import TuneConfig
from miaobi.tune.image.denoisers import Diffusion
from miaobi.tune.tasks import diffusion
from miaobi.tune.tasks.diffusion import Config, DiffusionLearner

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    written: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in written:
            written[name] = pipelines.write(name, tmp_path_factory.mktemp(name) / name)
        return written[name]

    return folder


def painter(folder: Path, **settings: Any) -> DiffusionLearner:
    return diffusion.learner(
        base_of(folder, "diffusers"), {}, Config(image_size=32, **settings)
    )


def batch_of(learner: DiffusionLearner, path: Path) -> Any:
    examples = examples_of(diffusion, pictures, path, learner.config)
    return learner.collate(
        [learner.encode(example.columns, 0) for example in examples[:4]]
    )


def script(learner: DiffusionLearner, batch: Any, gamma: float) -> torch.Tensor:
    """The loss of examples/text_to_image/train_text_to_image_lora.py, as it stands there."""
    noise_scheduler = DDPMScheduler.from_config(learner.pipeline.scheduler.config)
    latents = batch["mean"] + batch["std"] * torch.randn_like(
        batch["mean"]
    )  # latent_dist.sample()
    latents = latents * learner.pipeline.vae.config.scaling_factor
    noise = torch.randn_like(latents)
    timesteps = torch.randint(
        0, noise_scheduler.config.num_train_timesteps, (latents.shape[0],)
    ).long()
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    epsilon = noise_scheduler.config.prediction_type == "epsilon"
    target = (
        noise if epsilon else noise_scheduler.get_velocity(latents, noise, timesteps)
    )
    model_pred = learner.pipeline.unet(
        noisy_latents, timesteps, batch["text"], return_dict=False
    )[0]
    if not gamma:
        return F.mse_loss(model_pred.float(), target.float(), reduction="mean")
    snr = compute_snr(noise_scheduler, timesteps)
    mse_loss_weights = torch.stack(
        [snr, gamma * torch.ones_like(timesteps)], dim=1
    ).min(dim=1)[0]
    mse_loss_weights = (
        mse_loss_weights / snr if epsilon else mse_loss_weights / (snr + 1)
    )
    loss = F.mse_loss(model_pred.float(), target.float(), reduction="none")
    return (loss.mean(dim=list(range(1, len(loss.shape)))) * mse_loss_weights).mean()


@pytest.mark.parametrize("gamma", [0.0, 5.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_loss_is_that_of_the_diffusers_script(
    folders: Callable[[str], Path], tmp_path: Path, kind: str, gamma: float
) -> None:
    learner = painter(folders("sd15"))
    learner.pipeline.scheduler = DDPMScheduler.from_config(
        learner.pipeline.scheduler.config, prediction_type=kind
    )
    learner.noising = Diffusion(learner.pipeline.scheduler, gamma)
    batch = batch_of(learner, captioned(tmp_path / "set"))
    torch.manual_seed(3)
    expected = script(learner, batch, gamma)
    torch.manual_seed(3)
    loss = learner.loss(prepared(learner, batch))
    assert loss.count == 4
    torch.testing.assert_close(loss.total / loss.count, expected, rtol=1e-5, atol=1e-6)


def test_captions_are_encoded_as_the_pipeline_does(
    folders: Callable[[str], Path],
) -> None:
    learner = painter(folders("sd15"))
    own = learner.pipeline
    ids = own.tokenizer(
        "a red field",
        padding="max_length",
        max_length=77,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    np.testing.assert_allclose(
        learner.caption_features("a red field")["text"],
        own.text_encoder(ids)[0][0].detach().numpy(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_flow_is_straight(folders: Callable[[str], Path]) -> None:
    """At the far end there is only noise, and noise less the target is the picture all
    the way (Liu et al. 2022).
    """
    learner = painter(folders("sd3"))
    latents, noise = torch.randn(3, 16, 4, 4), torch.randn(3, 16, 4, 4)
    noised = learner.noising.add_noise(latents, noise, torch.tensor([0, 400, 999]))
    torch.testing.assert_close(noised.noisy[0], noise[0])
    torch.testing.assert_close(noise - noised.target, latents)
    sigma = noised.times.view(-1, 1, 1, 1) / 1000
    torch.testing.assert_close(
        noised.noisy - sigma * noised.target, latents, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux"])
def test_a_lora_learns_and_opens_in_diffusers(
    folders: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    learner = painter(folders(name))
    torch.manual_seed(0)
    methods.apply(learner, TuneConfig(method="lora", lora_rank=4, lora_alpha=8))
    batch = batch_of(learner, captioned(tmp_path / "set"))
    learner.eval()
    with torch.no_grad():
        before = learner.evaluate(prepared(learner, batch))
        assert [item.loss for item in learner.evaluate(prepared(learner, batch))] == [
            item.loss for item in before
        ]
    optimizer = torch.optim.AdamW(
        [weight for weight in learner.net.parameters() if weight.requires_grad], 1e-2
    )
    learner.train()
    for _ in range(25):
        optimizer.zero_grad()
        loss = learner.loss(prepared(learner, batch))
        (loss.total / loss.count).backward()
        optimizer.step()
    learner.eval()
    with torch.no_grad():
        after = learner.evaluate(prepared(learner, batch))
        assert sum(item.loss for item in after) < 0.99 * sum(
            item.loss for item in before
        )
        learner.save(tmp_path)
        opened: Any = DiffusionPipeline.from_pretrained(folders(name))
        opened.load_lora_weights(
            tmp_path, weight_name="pytorch_lora_weights.safetensors"
        )
        part = opened.components[learner.denoiser.part]
        latents = learner.scaled(batch["mean"])
        noised = learner.noising.add_noise(
            latents, torch.ones_like(latents), torch.tensor([500] * len(latents))
        )
        expected = learner.denoiser.predict(
            learner.net, noised.noisy, noised.times, batch
        )
        torch.testing.assert_close(
            learner.denoiser.predict(part, noised.noisy, noised.times, batch),
            expected,
            rtol=1e-4,
            atol=1e-5,
        )


def test_the_whole_network_is_saved_as_a_pipeline(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    learner = painter(folders("sd15"))
    with torch.no_grad():
        learner.net.conv_out.bias.add_(1.0)
    learner.save(tmp_path / "tuned")
    again = diffusion.learner(
        base_of(tmp_path / "tuned", "diffusers"), {}, Config(image_size=32)
    )
    torch.testing.assert_close(again.net.conv_out.bias, learner.net.conv_out.bias)


def test_a_subject_is_learned_beside_its_class(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """L = L_instance + λ L_prior, both means (examples/dreambooth/train_dreambooth_lora.py)."""
    set_, others = (
        captioned(tmp_path / "set"),
        class_folders(tmp_path / "class", each=1),
    )
    settings = {
        "instance_prompt": "a photo of sks dog",
        "class_prompt": "a photo of a dog",
        "class_path": str(others),
    }
    losses = {}
    for weight in (0.0, 1.0, 3.0):
        learner = painter(folders("sd15"), prior_weight=weight, **settings)
        learner.train()
        batch = batch_of(learner, set_)
        torch.manual_seed(5)
        loss = learner.loss(prepared(learner, batch))
        losses[weight] = loss.total.item()
        prior, count = loss.metrics["prior"].item(), loss.count
    assert count == 4
    assert prior > 0
    assert losses[1.0] - losses[0.0] == pytest.approx(prior, rel=1e-4)
    assert losses[3.0] - losses[0.0] == pytest.approx(3 * prior, rel=1e-4)
    assert {tuple(item["text"].ravel()[:8]) for item in learner._class_features} == {
        tuple(learner.caption_features("a photo of a dog")["text"].ravel()[:8])
    }


def test_the_base_paints_the_class_once(
    folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = painter(
        folders("sd15"), instance_prompt="sks dog", class_prompt="dog", class_pictures=1
    )
    learner.pipeline.scheduler.config.num_train_timesteps  # noqa: B018 - the scheduler is the pipeline's own
    first = learner._paint_class()
    painted = (first / "0000.png").read_bytes()
    monkeypatch.setattr(
        type(learner.pipeline),
        "__call__",
        lambda *_, **__: pytest.fail("painted again"),
    )
    assert (learner._paint_class() / "0000.png").read_bytes() == painted


def test_captions_fall_silent_for_guidance(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    learner = painter(folders("sd15"), caption_dropout=0.5)
    batch = batch_of(learner, captioned(tmp_path / "set"))
    torch.manual_seed(0)
    silent, empty = (
        (torch.rand(4) < 0.5).tolist(),
        torch.from_numpy(learner.caption_features("")["text"]),
    )
    torch.manual_seed(0)
    learner.train()
    ready = prepared(learner, batch)
    assert True in silent and False in silent
    assert [bool((row == empty).all()) for row in ready["text"]] == silent
    learner.eval()
    assert (prepared(learner, batch)["text"] == batch["text"]).all()


def test_errors_say_what_to_do(folders: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="multiples of 16"):
        diffusion.learner(
            base_of(folders("sd15"), "diffusers"), {}, Config(image_size=40)
        )
    with pytest.raises(BadInput, match="instance_prompt"):
        Config(class_prompt="a dog")
    with pytest.raises(Unsupported, match="CogVideoX"):
        diffusion.learner(base_of(folders("cogvideox"), "diffusers"), {}, Config())
    with pytest.raises(Unsupported, match="learned a flow"):
        painter(folders("sd3"), min_snr_gamma=5.0)
    with pytest.raises(Unsupported, match="no Diffusers pipeline"):
        diffusion.learner(base_of(tmp_path), {}, Config())
    with pytest.raises(Unusable, match="no caption"):
        diffusion.columns(
            {"image": "a", "digest": "b", "width": 1, "height": 1}, Config()
        )
