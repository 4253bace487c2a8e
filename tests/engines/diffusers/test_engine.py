"""The diffusers engine paints what Diffusers itself paints, pixel for pixel, in every
task and on every architecture.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image as Pillow
from safetensors.torch import save_file
from tests.engines import pipelines

import miaobi
from miaobi.core.engine import Chunk
from miaobi.core.errors import BadInput, DoesNotFit, MiaobiError, NotFound, Unsupported
from miaobi.core.requests import ImageRequest
from miaobi.engines.diffusers import schedulers as diffusers_schedulers
from miaobi.engines.model import Model

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
Checkpoint = Callable[[str], Path]
SIZES = {
    "sd15": (32, 32),
    "sdxl": (32, 32),
    "sd3": (32, 32),
    "flux": (48, 32),
    "cogvideox": (32, 32),
}
PHOTO = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
MASK = np.zeros_like(PHOTO)
MASK[:, 24:] = 255


def opened(folder: Path, **options: Any) -> Model:
    return miaobi.load(folder, safety_checker=False, **options)


def direct(kind: str, folder: Path, seed: int, **arguments: Any) -> np.ndarray:
    """The pixels of Diffusers' own class, loaded and called as its documentation does."""
    pipeline = getattr(diffusers, kind).from_pretrained(
        str(folder), use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(
        **arguments,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="pil",
    )
    images = output.images if "images" in output else output.frames[0]
    return np.asarray(images[0])


@pytest.mark.parametrize("name", pipelines.MAKERS)
def test_pixels_are_those_of_the_pipeline_itself(
    checkpoint: Checkpoint, name: str
) -> None:
    height, width = SIZES[name]
    controls = {
        "num_inference_steps": 3,
        "guidance_scale": 4.0,
        "height": height,
        "width": width,
    }
    expected = direct(
        "DiffusionPipeline",
        checkpoint(name),
        7,
        prompt="a fox",
        **controls,
        **({"num_frames": 1} if name == "cogvideox" else {}),
    )
    with opened(checkpoint(name)) as model:
        assert (model.engine_name, model.engine.takes) == ("diffusers", ImageRequest)
        picture = model.generate("a fox", seed=7, **controls)[0]
        assert picture.pixels.shape == (height, width, 3)
        assert (picture.pixels == expected).all()
        assert picture.pixels.std() > 5
        assert (model.generate("a fox", seed=8, **controls)[0].pixels != expected).any()
        assert (
            model.generate("the sea", seed=7, **controls)[0].pixels != expected
        ).any()
        # Picture 1 of seed 6 is picture 0 of seed 7, whatever else is asked for.
        pair = model.generate("a fox", seed=6, n=2, **controls)
        assert abs(pair[1].pixels.astype(int) - expected.astype(int)).max() <= 2, (
            "equal but for rounding in a batch"
        )
        assert [one.facts.seed for one in pair] == [6, 7]


KINDS = {
    "sd15": "StableDiffusion{}Pipeline",
    "sdxl": "StableDiffusionXL{}Pipeline",
    "sd3": "StableDiffusion3{}Pipeline",
    "flux": "Flux{}Pipeline",
}


@pytest.mark.parametrize("name", KINDS)
def test_image_to_image_and_inpainting(checkpoint: Checkpoint, name: str) -> None:
    controls = {"num_inference_steps": 4, "strength": 0.6}
    sized = {"height": 32, "width": 48}
    again = direct(
        KINDS[name].format("Img2Img"),
        checkpoint(name),
        2,
        prompt="a fox",
        image=Pillow.fromarray(PHOTO),
        **controls,
        **(sized if name in ("sd3", "flux") else {}),
    )
    painted = direct(
        KINDS[name].format("Inpaint"),
        checkpoint(name),
        2,
        prompt="a fox",
        image=Pillow.fromarray(PHOTO),
        mask_image=Pillow.fromarray(MASK).convert("L"),
        **controls,
        **sized,
    )
    painted = np.where(MASK == 0, PHOTO, painted)
    with opened(checkpoint(name)) as model:
        assert (
            model.generate("a fox", seed=2, image=PHOTO, **controls)[0].pixels == again
        ).all()
        assert (
            model.generate("a fox", seed=2, image=PHOTO, mask=MASK, **controls)[
                0
            ].pixels
            == painted
        ).all()


def test_white_is_repainted_and_black_stays(checkpoint: Checkpoint) -> None:
    """Under black every byte is the picture's own."""
    with opened(checkpoint("sd15")) as model:

        def make(mask: np.ndarray, seed: int) -> np.ndarray:
            images = model.generate(
                "a fox", seed=seed, image=PHOTO, mask=mask, num_inference_steps=4
            )
            return images[0].pixels.astype(float)

        for mask in (MASK, 255 - MASK):
            first, second = make(mask, 1), make(mask, 2)
            stays = mask == 0
            np.testing.assert_array_equal(first[stays], PHOTO[stays])
            assert np.abs(first - second)[~stays].mean() > 1


def test_odd_pictures_keep_their_size(checkpoint: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "odd.png"
    Pillow.fromarray(PHOTO[:29, :41]).save(file)
    with opened(checkpoint("sd15")) as model:
        for mask in (None, MASK[:29, :41]):
            picture = model.generate("x", image=file, mask=mask, num_inference_steps=2)[
                0
            ]
            assert picture.pixels.shape == (29, 41, 3)
            assert str(picture.facts.parameters["image"]).startswith("sha256:")
        whole = model.generate("x", image=PHOTO, num_inference_steps=2, seed=1)[
            0
        ].pixels
        assert whole.shape == (32, 48, 3)


def test_tasks_share_one_set_of_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def addresses(pipeline: Any) -> set[int]:
        return {
            weight.data_ptr()
            for part in pipeline.components.values()
            if isinstance(part, torch.nn.Module)
            for weight in part.parameters()
        }

    for name in KINDS:
        with opened(checkpoint(name)) as model:
            tasks = [
                model.engine.pipelines.of(task) for task in ("text", "image", "mask")
            ]
            assert len({type(task) for task in tasks}) == 3
            assert addresses(tasks[0]) == addresses(tasks[1]) == addresses(tasks[2])
            assert len(addresses(tasks[0])) > 50
    with opened(
        checkpoint("sd15"), controlnet=pipelines.write_controlnet(tmp_path / "control")
    ) as model:
        tasks = [
            model.engine.pipelines.of(task, True) for task in ("text", "image", "mask")
        ]
        assert (
            addresses(tasks[0])
            == addresses(tasks[1])
            == addresses(tasks[2])
            > addresses(model.engine.pipelines.of("text"))
        )


def test_controlnet(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = pipelines.write_controlnet(tmp_path / "control")
    net = diffusers.ControlNetModel.from_pretrained(str(folder))
    pipeline = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        str(checkpoint("sd15")), controlnet=net
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = np.asarray(
        pipeline(
            "a fox",
            image=Pillow.fromarray(PHOTO),
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(5),
        ).images[0]
    )
    with opened(checkpoint("sd15"), controlnet=folder) as model:
        ask = {"seed": 5, "num_inference_steps": 3}
        guided = model.generate("a fox", control_image=PHOTO, **ask)[0]
        assert (guided.pixels == expected).all()
        assert guided.facts.parameters["controlnet"].startswith("sha256:")
        free = model.generate("a fox", width=48, height=32, **ask)[0].pixels
        assert (free != expected).any()
        with opened(checkpoint("sd15")) as plain:
            assert (
                plain.generate("a fox", width=48, height=32, **ask)[0].pixels == free
            ).all(), "without a control image it takes no part"
            with pytest.raises(Unsupported, match="control_image"):
                plain.generate("a fox", control_image=PHOTO)
        assert (
            model.generate("a fox", image=PHOTO, control_image=PHOTO, mask=MASK, **ask)[
                0
            ].pixels.shape
            == PHOTO.shape
        )
        assert (
            model.generate("a fox", image=PHOTO, control_image=PHOTO, **ask)[
                0
            ].pixels.shape
            == PHOTO.shape
        )
        with pytest.raises(
            BadInput, match="control_image has 24 x 32 pixels, the image 48 x 32"
        ):
            model.generate("a fox", image=PHOTO, control_image=PHOTO[:, :24], **ask)
    for wrong, error, message in (
        (tmp_path / "none", NotFound, "no file or folder"),
        (checkpoint("sd15") / "vae", BadInput, "AutoencoderKL, not a ControlNet"),
    ):
        with pytest.raises(error, match=message):
            opened(checkpoint("sd15"), controlnet=wrong)
    with pytest.raises(Unsupported, match="no variant with a ControlNet"):
        opened(checkpoint("cogvideox"), controlnet=folder)


def lora(
    folder: Path,
    checkpoint: Path,
    kind: str = "StableDiffusionPipeline",
    part: str = "unet",
) -> Path:
    """A LoRA as the training scripts of PEFT and Diffusers write it, with random weights."""
    pipeline = getattr(diffusers, kind).from_pretrained(str(checkpoint))
    network = getattr(pipeline, part)
    torch.manual_seed(0)
    network.add_adapter(
        LoraConfig(
            r=4,
            lora_alpha=4,
            init_lora_weights=False,
            target_modules=["to_q", "to_k", "to_v", "to_out.0"],
        )
    )
    getattr(diffusers, kind).save_lora_weights(
        str(folder), **{f"{part}_lora_layers": get_peft_model_state_dict(network)}
    )
    return folder / "pytorch_lora_weights.safetensors"


def test_lora(checkpoint: Checkpoint, tmp_path: Path) -> None:
    ask: dict[str, Any] = {"seed": 5, "num_inference_steps": 3}
    file = lora(tmp_path / "lora", checkpoint("sd15"))
    with opened(checkpoint("sd15")) as model:
        plain = model.generate("a fox", **ask)[0].pixels.astype(float)
    with opened(checkpoint("sd15"), lora=[file, file.parent], lora_scale=0.5) as model:
        twice = model.generate("a fox", **ask)[0]
        assert len(set(twice.facts.parameters["lora"].split())) == 1
    change = []
    for scale in (0.0, 0.5, 1.0):
        with opened(checkpoint("sd15"), lora=file, lora_scale=scale) as model:
            picture = model.generate("a fox", **ask)[0]
            change.append(np.abs(picture.pixels - plain).mean())
            assert picture.facts.parameters["lora_scale"] == scale
            assert (
                model.generate("a fox", image=PHOTO, **ask)[0].pixels.shape
            ) == PHOTO.shape
    assert change[0] == 0 < change[1] < change[2]
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        str(checkpoint("sd15"))
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    expected = np.asarray(
        pipeline(
            "a fox", num_inference_steps=3, generator=torch.Generator().manual_seed(5)
        ).images[0]
    )
    assert (picture.pixels == expected).all()
    assert np.abs(twice.pixels.astype(int) - expected).max() <= 1, (
        "two halves make a whole"
    )


def test_lora_that_does_not_fit(checkpoint: Checkpoint, tmp_path: Path) -> None:
    flux = lora(tmp_path / "flux", checkpoint("flux"), "FluxPipeline", "transformer")
    with pytest.raises(BadInput, match="does not fit a StableDiffusionPipeline"):
        opened(checkpoint("sd15"), lora=flux)
    with pytest.raises(NotFound, match="lora: there is no file"):
        opened(checkpoint("sd15"), lora=tmp_path / "none.safetensors")
    with pytest.raises(NotFound, match="HF_HUB_OFFLINE"):
        opened(checkpoint("sd15"), lora="nobody/nothing")
    (tmp_path / "old.bin").write_bytes(b"\x80")
    with pytest.raises(Unsupported, match="pickled"):
        opened(checkpoint("sd15"), lora=tmp_path / "old.bin")
    with pytest.raises(BadInput, match="there is no lora"):
        opened(checkpoint("sd15"), lora_scale=0.5)


@pytest.mark.parametrize(
    ("key", "word"), [("<fox>", "<fox>"), ("emb_params", "vulpes")]
)
def test_textual_inversion(
    checkpoint: Checkpoint, tmp_path: Path, key: str, word: str
) -> None:
    torch.manual_seed(0)
    vectors = 3 * torch.randn(2, pipelines.WIDE)
    save_file({key: vectors}, tmp_path / "vulpes.safetensors")
    ask: dict[str, Any] = {"seed": 5, "num_inference_steps": 3}
    with opened(checkpoint("sd15")) as model:
        plain = model.generate(f"a {word}", **ask)[0].pixels
        other = model.generate("a dog", **ask)[0].pixels
    with opened(
        checkpoint("sd15"), embeddings=tmp_path / "vulpes.safetensors"
    ) as model:
        assert (model.generate(f"a {word}", **ask)[0].pixels != plain).any()
        assert (model.generate("a dog", **ask)[0].pixels == other).all()
        own = model.engine.pipelines.own
        ids = own.tokenizer(own.maybe_convert_prompt(f"a {word}", own.tokenizer))[
            "input_ids"
        ]
        assert torch.equal(
            own.text_encoder.get_input_embeddings().weight[ids[2:4]], vectors
        )
    save_file({key: torch.randn(1, 7)}, tmp_path / "narrow.safetensors")
    with pytest.raises(BadInput, match="does not fit"):
        opened(checkpoint("sd15"), embeddings=tmp_path / "narrow.safetensors")


def test_textual_inversion_for_two_encoders(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    save_file(
        {
            "clip_l": torch.ones(1, pipelines.WIDE),
            "clip_g": -torch.ones(1, pipelines.WIDE),
        },
        tmp_path / "vulpes.safetensors",
    )
    with opened(
        checkpoint("sdxl"), embeddings=tmp_path / "vulpes.safetensors"
    ) as model:
        own = model.engine.pipelines.own
        for tokenizer, encoder, value in (
            (own.tokenizer, own.text_encoder, 1),
            (own.tokenizer_2, own.text_encoder_2, -1),
        ):
            assert (
                encoder.get_input_embeddings().weight[
                    tokenizer.convert_tokens_to_ids("vulpes")
                ]
                == value
            ).all()


@pytest.mark.parametrize("name", diffusers_schedulers.NAMES)
def test_schedulers_run(checkpoint: Checkpoint, shared_sd15: Model, name: str) -> None:
    pixels = shared_sd15.generate(
        "a fox", seed=1, num_inference_steps=4, scheduler=name
    )[0].pixels
    assert pixels.std() > 5
    kind, settings = diffusers_schedulers.NAMES[name]
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        str(checkpoint("sd15"))
    )
    pipeline.scheduler = getattr(diffusers, kind).from_config(
        pipeline.scheduler.config, **settings
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = np.asarray(
        pipeline(
            "a fox", num_inference_steps=4, generator=torch.Generator().manual_seed(1)
        ).images[0]
    )
    assert (pixels == expected).all()


@pytest.mark.parametrize("checkpoint_name", ["sd3", "flux"])
def test_flow_schedulers_run(checkpoint: Checkpoint, checkpoint_name: str) -> None:
    with opened(checkpoint(checkpoint_name)) as model:
        images = {
            name: model.generate(
                "a fox",
                seed=1,
                num_inference_steps=4,
                width=32,
                height=32,
                scheduler=name,
            )[0].pixels
            for name in diffusers_schedulers.FLOW
        }
        assert all(pixels.std() > 5 for pixels in images.values())
        assert (
            images["euler"]
            == model.generate(
                "a fox", seed=1, num_inference_steps=4, width=32, height=32
            )[0].pixels
        ).all()
        assert len({pixels.tobytes() for pixels in images.values()}) == len(images)


@pytest.fixture(scope="module")
def shared_sd15(checkpoint: Checkpoint) -> Model:
    return opened(checkpoint("sd15"))


def test_the_last_scheduler_does_not_linger(shared_sd15: Model) -> None:
    first = shared_sd15.generate("a fox", seed=1, num_inference_steps=3)[0].pixels
    assert (
        shared_sd15.generate("a fox", seed=1, num_inference_steps=3, scheduler="ddim")[
            0
        ].pixels
        != first
    ).any()
    assert (
        shared_sd15.generate("a fox", seed=1, num_inference_steps=3)[0].pixels == first
    ).all()


def test_progress_by_step(shared_sd15: Model) -> None:
    chunks = list(
        shared_sd15.stream(
            "a fox", num_inference_steps=5, n=2, scheduler="ddim", seed=1
        )
    )
    for index in range(2):
        own = [chunk for chunk in chunks if chunk.index == index]
        progress = [chunk.progress for chunk in own[:-1]]
        assert progress == pytest.approx([step / 6 for step in range(6)])
        assert own[-1].finish == "stop" and own[-1].artifact is not None


def test_leaving_stops_between_steps(shared_sd15: Model) -> None:
    steps: list[int] = []
    pipeline = shared_sd15.engine.pipelines.of("text")
    forward = pipeline.unet.forward

    def counted(*arguments: Any, **named: Any) -> Any:
        steps.append(1)
        return forward(*arguments, **named)

    async def leave() -> None:
        chunks = shared_sd15.engine.generate(
            ImageRequest(prompt="a fox", num_inference_steps=400, n=3, seed=1)
        )
        async for chunk in chunks:
            if chunk.progress:
                break
        await chunks.aclose()  # type: ignore[attr-defined]

    async def after() -> list[Chunk]:
        return [
            chunk
            async for chunk in shared_sd15.engine.generate(
                ImageRequest(
                    prompt="a fox", num_inference_steps=1, seed=1, scheduler="ddim"
                )
            )
        ]

    pipeline.unet.forward = counted
    try:
        asyncio.run(leave())
        assert asyncio.run(after())[-1].finish == "stop"
    finally:
        del pipeline.unet.forward
    assert len(steps) < 100


def test_what_a_pipeline_would_ignore_is_refused_by_name(
    checkpoint: Checkpoint, shared_sd15: Model, tmp_path: Path
) -> None:
    with (
        opened(checkpoint("flux")) as model,
        pytest.raises(Unsupported, match="negative_prompt"),
    ):
        model.generate("a fox", negative_prompt="blur")
    folder = shutil.copytree(checkpoint("flux"), tmp_path / "distilled")
    network = diffusers.FluxTransformer2DModel.from_pretrained(
        str(folder / "transformer")
    )
    plain = diffusers.FluxTransformer2DModel(
        **{**network.config, "guidance_embeds": False}
    )
    plain.load_state_dict(
        {
            key: value
            for key, value in network.state_dict().items()
            if key in plain.state_dict()
        }
    )
    plain.save_pretrained(str(folder / "transformer"))
    with opened(folder) as model:
        assert model.generate("a fox", width=32, height=32, num_inference_steps=1)
        with pytest.raises(Unsupported, match="guidance_scale"):
            model.generate("a fox", guidance_scale=3.0)
    with (
        opened(checkpoint("cogvideox")) as model,
        pytest.raises(Unsupported, match="image"),
    ):
        model.generate("a fox", image=PHOTO)
    for name, value in (("label", "7"), ("truncation", 0.5)):
        with pytest.raises(Unsupported, match=name):
            shared_sd15.generate("a fox", **{name: value})


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"width": 36}, "width is 36.*multiples of 8"),
        ({"height": 12, "width": 16}, "height is 12"),
        (
            {"image": PHOTO, "mask": MASK[:, :40]},
            "mask has 40 x 32 pixels, the image 48 x 32",
        ),
        ({"image": PHOTO, "width": 64}, "width is 64; the image has 48"),
        ({"image": PHOTO, "strength": 0.0}, "strength is 0"),
        (
            {"image": PHOTO, "strength": 0.1, "num_inference_steps": 5},
            "of 5 steps it leaves none",
        ),
        (
            {"negative_prompt": "blur", "guidance_scale": 1.0},
            "negative_prompt and guidance_scale 1",
        ),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"scheduler": "eulr"}, "euler"),
        ({"image": Path("none.png")}, "none.png"),
        ({"image": b"\x89PNG"}, "image"),
    ],
)
def test_requests_that_cannot_be_honoured(
    shared_sd15: Model, controls: dict[str, Any], message: str
) -> None:
    with pytest.raises(MiaobiError, match=message) as caught:
        shared_sd15.generate("a fox", **controls)
    assert caught.value.remedy


def test_images_beyond_the_memory_are_refused_before_they_are_painted(
    shared_sd15: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        DoesNotFit, match="4 of 16384 x 16384 pixels would take about 515"
    ):
        shared_sd15.generate(
            "a fox", width=16384, height=16384, n=8, num_inference_steps=1
        )
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(available=60 * 8 * 32 * 32)
    )
    assert shared_sd15.generate("a fox", width=32, height=32, num_inference_steps=1)
    with pytest.raises(DoesNotFit, match="fewer at a time"):
        shared_sd15.generate("a fox", width=32, height=32, n=2, num_inference_steps=1)


def test_prompts_may_be_empty_or_left_out(shared_sd15: Model) -> None:
    nothing, empty = (
        shared_sd15.generate(ask, seed=1, num_inference_steps=2)[0]
        for ask in (None, "")
    )
    assert (nothing.pixels == empty.pixels).all()
    assert "prompt" not in nothing.facts.parameters
    facts = shared_sd15.generate("a fox", seed=1, num_inference_steps=2)[0].facts
    assert facts.parameters == {"prompt": "a fox", "num_inference_steps": 2}


def test_inpainting_networks_only_inpaint(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Their UNet sees the mask and the masked picture beside the noise: nine channels."""
    whole = diffusers.StableDiffusionPipeline.from_pretrained(str(checkpoint("sd15")))
    parts = {**whole.components, "unet": pipelines.unet(in_channels=9)}
    diffusers.StableDiffusionInpaintPipeline(
        **parts, requires_safety_checker=False
    ).save_pretrained(str(tmp_path / "inpaint"))
    with opened(tmp_path / "inpaint") as model:
        assert (
            model.generate("a fox", image=PHOTO, mask=MASK, num_inference_steps=2)[
                0
            ].pixels.shape
            == PHOTO.shape
        )
        for controls in ({}, {"image": PHOTO}):
            with pytest.raises(Unsupported, match="cannot make pictures from"):
                model.generate("a fox", **controls)


def test_unconditional_pipelines(tmp_path: Path) -> None:
    """The oldest kind: no words, no autoencoder."""
    net = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 8),
        norm_num_groups=2,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler()).save_pretrained(
        str(tmp_path / "ddpm")
    )
    expected = direct("DDPMPipeline", tmp_path / "ddpm", 3, num_inference_steps=3)
    with opened(tmp_path / "ddpm") as model:
        assert (
            model.generate(seed=3, num_inference_steps=3)[0].pixels == expected
        ).all()
        with pytest.raises(Unsupported, match="prompt"):
            model.generate("a fox")
