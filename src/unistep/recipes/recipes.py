"""Recipes: each a function that returns a whole Run. A new recipe: one function and one line in RECIPES."""

import dataclasses
import difflib
from collections.abc import Callable

from ..bases.compact.network import CompactConfig
from ..bases.resshift.network import ResShiftConfig
from ..bases.sd3.network import SD3Config
from ..bases.sd21.network import SD21Config
from ..data.pairs import DataConfig
from ..errors import ConfigError
from ..methods import (
    DFOSDConfig,
    OSEDiffConfig,
    RegressionConfig,
    SinSRConfig,
    TADSRConfig,
    TeacherConfig,
    TSDSRConfig,
)
from .config import BaseConfig, MethodConfig, Run, TrainConfig


def compact_teacher() -> Run:
    """The embedded model: denoiser and one-step slot, 160-pixel crops, trainable on two CPU cores."""
    return Run(
        name="compact-teacher",
        method=TeacherConfig(slot_share=0.8, weight_edge=0.5),
        data=DataConfig(patch=160),
        train=TrainConfig(steps=15_000, batch=10, lr=1e-3, lr_min=0.01),
    )


def compact_student(name: str, method: MethodConfig, plain: str = "compact-plain") -> Run:
    """What the students share: the teacher they start from, the plain model, data, batch and rates.

    The papers' rates (5e-6 to 5e-5) belong to adapters of large pretrained networks; here all weights of a
    small one move.
    """
    return Run(
        name=name,
        method=method,
        data=DataConfig(patch=128),
        train=TrainConfig(
            steps=1_000, batch=6, lr=1e-4, lr_critic=4e-4, lr_min=0.05, warmup=20, ema=0.99,
            init="compact-teacher", plain=plain, keep="last", save_every=200, validate_every=500,
        ),
    )  # fmt: skip


def compact_plain() -> Run:
    """A plain reconstruction: squared error alone."""
    method = DFOSDConfig(discriminator="none", spatial="mse", weight_mse=44.0)
    return compact_student("compact-plain", method, plain="self")


def compact_sharp() -> Run:
    """Squared error against sharpened photographs, stronger damage: what compact-distilled starts from.

    Sharpened targets (unsharp mask, as Real-ESRGAN's) answer with crisp edges where an adversary answers with
    grain, and more of `realesrgan` cleans compressed photographs. It starts from compact-plain.
    """
    method = DFOSDConfig(discriminator="none", spatial="mse", weight_mse=44.0, weight_grid=10.0)
    run = compact_student("compact-sharp", method)
    mix = {"realesrgan": 0.4, "light": 0.3, "bicubic": 0.1, "mild": 0.2}
    return dataclasses.replace(
        run,
        data=DataConfig(patch=128, usm_sharpen=True, degradations=mix),
        train=dataclasses.replace(run.train, steps=1_800, lr=2e-4, init="compact-plain"),
    )


def compact_distilled() -> Run:
    """The default of `unistep upscale`: plain regression on what a stronger restorer (train.restorer) makes.

    The restorer's clean edges and flat areas are learnt, its colours are not (weight_means), and a share of
    photographs (method.truth_share) can keep what it would paint over. A pair costs nearly as much as a step
    (the restorer's pass, the degradation), hence four uses of each. The network is folded before, since no
    other time is trained: a step of Adam then moves the answer 4.8 times as far, which the rate allows for.
    """
    run = compact_student("compact-distilled", RegressionConfig())
    mix = {"realesrgan": 0.5, "compressed": 0.25, "light": 0.1, "bicubic": 0.05, "mild": 0.1}
    return dataclasses.replace(
        run,
        base=CompactConfig(folded=True),
        data=DataConfig(patch=160, degradations=mix, uses=4),
        train=dataclasses.replace(
            run.train, steps=125_000, batch=4, lr=2e-4, lr_min=0.01, warmup=50, ema=0.998,
            init="compact-sharp", save_every=250, validate_every=2_000,
        ),
    )  # fmt: skip


def compact_refined() -> Run:
    """The second stage of compact-distilled: a restorer of finer texture, and photographs, at a lower rate.

    Meant for RealESRGAN_x4plus, whose results have no lattice but are hard to follow from afar. A quarter of
    each batch learns from sharpened photographs: what the restorer paints over comes back.
    """
    run = compact_distilled()
    return dataclasses.replace(
        run,
        name="compact-refined",
        method=RegressionConfig(truth_share=0.25),
        data=dataclasses.replace(run.data, usm_sharpen=True),
        train=dataclasses.replace(run.train, steps=50_000, lr=5e-5, init="compact-distilled"),
    )


def compact_tsdsr() -> Run:
    """TSD-SR on the compact base.

    Guidance is 1: the network has no text, and was never trained without its image. Above t = 650 its
    residual's share of the energy is below 0.12. gamma and the weights are in units of latents whose errors
    are of size 0.15: the released weights of 1 belong to latents of unit variance.
    """
    return compact_student(
        "compact-tsdsr",
        TSDSRConfig(guidance=1.0, t_min=20, t_max=650, gamma=128.0, weight_lpips=0.3, weight_mse=1.0),
    )


def compact_dfosd() -> Run:
    """DFOSD on the compact base.

    weight_mse is 1 / sigma_data^2. Above t = 150 the discriminator would see little of the residual.
    weight_grid: without it the adversary drives the 4-pixel grid number from 1.1 to 60 in 100 steps.
    """
    return compact_student(
        "compact-dfosd",
        DFOSDConfig(weight_mse=44.0, lambda_perceptual=0.3, lambda_adv=0.35, t_nad_max=150, weight_grid=30.0),
    )


def compact_tadsr() -> Run:
    """TAD-SR on the compact base.

    The paper's weights 1, 1 and 0.02 belong to latents about 4 times as large: the squared error grows with
    the square of that, the score's push in proportion, the adversarial term not at all.
    """
    return compact_student("compact-tadsr", TADSRConfig("resshift", weight_distill=16.0, lambda_hsd=4.0))


TSDSR_PROMPT = (
    "Cinematic, High Contrast, highly detailed, taken using a Canon EOS R camera, hyper detailed photo - "
    "realistic maximum detail, 32k, Color Grading, ultra HD, extrememeticulous detailing, skin pore "
    "detailing, hyper sharpness, perfect without deformations."
)
"""What TSD-SR's student is told (released), to the letter: its published embedding is of exactly this."""

# The papers' recipes on their own bases. "released" is the authors' code where the paper is silent; what
# neither says is ours, and marked so. Rates are constant where `lr_min` is 1; `ema` 0 is no average.


def paper(name: str, base: BaseConfig, method: MethodConfig, data: DataConfig, train: TrainConfig) -> Run:
    """What the papers' recipes share: the weights at the end count, and a look at them every 5,000 steps."""
    train = dataclasses.replace(train, keep="last", save_every=1_000, validate_every=5_000)
    return Run(name=name, base=base, method=method, data=data, train=train)


def pictures(
    patch: int, degradation: str = "realesrgan", sharp: bool = False, prompts: bool = False
) -> DataConfig:
    """Crops of `patch` pixels, mirrored but never turned, of one degradation."""
    return DataConfig(
        patch=patch,
        degradations={degradation: 1.0},
        rotations=False,
        usm_sharpen=sharp,
        prompts=prompts,
        workers=4,
    )


def tsdsr(name: str, base: BaseConfig, process: str, init: str) -> Run:
    """TSD-SR (arXiv 2411.18263) on a Stable Diffusion.

    The data are SeeSR's, which sharpens the high-quality images (released).
    """
    method = TSDSRConfig(
        process=process, t_min=50, t_max=950,  # Algorithm 1
        dasm_steps=4, dasm_stride=50,  # Tab. 7 (N, s)
        guidance=7.5,  # supplement F
        lambda_vsd=0.7, gamma=1.0, dasm_weight=0.3, weight_lpips=1.0, weight_mse=1.0,  # released
    )  # fmt: skip
    train = TrainConfig(
        lr=5e-6, lr_critic=1e-6, batch=16,  # Sec. 4.1
        steps=200_000, warmup=3_000, lr_min=0.0, betas=(0.9, 0.999), weight_decay=1e-4, clip=1.0, ema=0.0,
        micro=2, features="alexnet",  # released
        # With noise predicted, what the UNet says at t = 999 counts 14.6 times: bf16 would round too much.
        precision="fp16" if process == "ddpm" else "auto",
        init=init,
    )  # fmt: skip
    return paper(name, base, method, pictures(512, sharp=True, prompts=True), train)


def tsdsr_sd3() -> Run:
    """TSD-SR on Stable Diffusion 3 medium: the paper's model."""
    base = SD3Config(
        prompt=TSDSR_PROMPT,
        rank=64, rank_encoder=64, rank_score=64,  # Sec. 4.1; alpha = rank (released)
        dtype="bf16", checkpointing=True,  # ours: so that it fits on a card of 24 GB
    )  # fmt: skip
    return tsdsr("tsdsr-sd3", base, "flow", "sd3-medium")


def tsdsr_sd21() -> Run:
    """TSD-SR on Stable Diffusion 2.1 base (supplement Tab. 6, which gives no settings of its own)."""
    base = SD21Config(prompt=TSDSR_PROMPT, rank=64, rank_encoder=64, rank_score=64, checkpointing=True)
    return tsdsr("tsdsr-sd21", base, "ddpm", "sd21-base")


def tsdsr_sd2() -> Run:
    """TSD-SR on Stable Diffusion 2 base (supplement Tab. 6, which gives no settings of its own)."""
    base = SD21Config(prompt=TSDSR_PROMPT, rank=64, rank_encoder=64, rank_score=64, checkpointing=True)
    return tsdsr("tsdsr-sd2", base, "ddpm", "sd2-base")


def dfosd_sd21(name: str = "dfosd-sd21", critic: str = "") -> Run:
    """DFOSD (arXiv 2410.04224) on Stable Diffusion 2.1 base. Nothing was released.

    T_L is ours: the paper has "an intermediate time step". At 200 the latent counts 0.87, noise 0.50, so that
    a new student removes about what low quality adds; at 999 it would have to invent all.
    """
    base = SD21Config(
        rank=16, rank_score=16, rank_encoder=0, learned_prompt=True,  # Sec. 4.1, Fig. 2; alpha = rank
        t_student=200, checkpointing=True,  # ours
        critic=critic,
    )  # fmt: skip
    method = DFOSDConfig(
        process="ddpm", spatial="ea-dists", discriminator="nad",  # Sec. 3
        taps="mid",  # Fig. 2
        t_nad_min=0, t_nad_max=999,  # Sec. 3.2: [0, T]
        t_student=200, weight_mse=1.0, lambda_perceptual=1.0, lambda_adv=0.1, head_width=64,  # ours
    )  # fmt: skip
    train = TrainConfig(
        lr=5e-5, lr_critic=5e-5, batch=16, steps=100_000,  # Sec. 4.1
        micro=4,  # Sec. 4.1: four cards
        warmup=0, lr_min=1.0, betas=(0.9, 0.999), weight_decay=1e-2, clip=1.0, ema=0.999,  # ours
        features="vgg16", init="sd21-base",
    )  # fmt: skip
    return paper(name, base, method, pictures(512), train)


def dfosd_sd21_sdxl() -> Run:
    """DFOSD with SDXL's UNet in the discriminator (Tab. 6). How it is fed is ours: `base.critic_*`."""
    return dfosd_sd21("dfosd-sd21-sdxl", critic="sdxl-base")


def tadsr(name: str, variant: str, method: TADSRConfig, data: DataConfig, train: TrainConfig) -> Run:
    """TAD-SR (arXiv 2408.07476) on ResShift, with the noise and scaling of the paper, not those released."""
    train = dataclasses.replace(
        train,
        steps=30_000,  # Sec. V-A
        lr=5e-5, lr_critic=5e-5, schedule_critic=False, weight_decay=0.0, clip=0.0, ema=0.999,
        warmup=5_000, lr_min=1.0, precision="fp32",  # released
        betas=(0.9, 0.999),  # ours
    )  # fmt: skip
    return paper(name, ResShiftConfig(variant=variant), method, data, train)


def tadsr_resshift() -> Run:
    """TAD-SR for real-world super-resolution, from ResShift x4 with 15 steps.

    The degradation is Real-ESRGAN's; ResShift's own skips the second order half of the time.
    """
    method = TADSRConfig("resshift", 
        weight_distill=1.0, lambda_hsd=1.0, lambda_adv=0.02,  # Sec. V-A
        t_hsd=3, t_dis=15, teacher_steps=15,  # Sec. IV-B; Algorithm 1
        c_dim=64, embed_dim=160,  # released
    )  # fmt: skip
    train = TrainConfig(batch=64, micro=8)  # Sec. V-A: as ResShift, 64; released: 8 per card
    return tadsr("tadsr-resshift", "resshift-15", method, pictures(256), train)


def tadsr_resshift_face() -> Run:
    """TAD-SR for blind faces, from ResShift's model of 4 steps.

    Its schedule is the teacher's own. The released student's starts lower; its last index is the same.
    """
    method = TADSRConfig("resshift", 
        weight_distill=1.0, lambda_hsd=0.1, lambda_adv=0.2,  # Sec. V-A
        t_hsd=3,  # Sec. IV-B
        t_dis=4, teacher_steps=4,  # Algorithm 1, T of ResShift's model for faces
        c_dim=64, embed_dim=160,  # released
    )  # fmt: skip
    train = TrainConfig(batch=56, micro=7)  # Sec. V-A: as ResShift, 56; released: 7 per card
    return tadsr("tadsr-resshift-face", "resshift-faces", method, pictures(512, "faces"), train)


def osediff_sd21() -> Run:
    """OSEDiff (arXiv 2406.08177) on Stable Diffusion 2.1 base: every number is the released one."""
    base = SD21Config(
        rank=4, alpha=8.0, rank_encoder=4, rank_score=4, train_conv_in=True, t_student=999,
        checkpointing=True,  # ours
        negative="blurry, dirty, low quality, jpeg artifacts, over-smooth",  # ours: theirs is a longer list
    )  # fmt: skip
    method = OSEDiffConfig(
        process="ddpm", t_student=999, t_min=20, t_max=979, guidance=7.5,
        weight_mse=1.0, lambda_1=2.0, lambda_2=1.0,
    )  # fmt: skip
    train = TrainConfig(
        lr=5e-5, lr_critic=5e-5, batch=16, micro=4, steps=100_000, warmup=0, lr_min=1.0,
        betas=(0.9, 0.999), weight_decay=1e-2, clip=1.0, ema=0.0, features="vgg16", init="sd21-base",
        precision="fp16",  # at t = 999 what the UNet says counts 14.6 times: bf16 would round too much
    )  # fmt: skip
    return paper("osediff-sd21", base, method, pictures(512, prompts=True), train)


def sinsr_resshift() -> Run:
    """SinSR (arXiv 2311.14760) on ResShift x4 with 15 steps: the released numbers.

    Steps are ours: the released file says 500,000, its page that a few thousand are enough. The degradation
    is as in `tadsr_resshift`.
    """
    method = SinSRConfig.released(
        "resshift", weight_distill=1.0, weight_inverse=1.0, weight_gt=1.0, teacher_steps=15
    )
    train = TrainConfig(
        lr=5e-5, batch=64, micro=8, warmup=5_000, lr_min=1.0, betas=(0.9, 0.999), weight_decay=0.0,
        clip=0.0, ema=0.999, precision="fp32",
        steps=30_000,  # ours
    )  # fmt: skip
    return paper("sinsr-resshift", ResShiftConfig(variant="resshift-15"), method, pictures(256), train)


RECIPES: dict[str, Callable[[], Run]] = {
    "compact-teacher": compact_teacher,
    "compact-plain": compact_plain,
    "compact-sharp": compact_sharp,
    "compact-distilled": compact_distilled,
    "compact-refined": compact_refined,
    "compact-tsdsr": compact_tsdsr,
    "compact-dfosd": compact_dfosd,
    "compact-tadsr": compact_tadsr,
    "tsdsr-sd3": tsdsr_sd3,
    "tsdsr-sd21": tsdsr_sd21,
    "tsdsr-sd2": tsdsr_sd2,
    "dfosd-sd21": dfosd_sd21,
    "dfosd-sd21-sdxl": dfosd_sd21_sdxl,
    "tadsr-resshift": tadsr_resshift,
    "tadsr-resshift-face": tadsr_resshift_face,
    "osediff-sd21": osediff_sd21,
    "sinsr-resshift": sinsr_resshift,
}


def recipe(name: str) -> Run:
    """The named recipe. Raises ConfigError, with the nearest name, for an unknown one."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(RECIPES)}"
        raise ConfigError(f"unknown recipe “{name}”{hint}")
    return RECIPES[name]()
