"""The models of others that Unistep knows by name: where they are, what of them is needed, on what terms."""

from dataclasses import dataclass

STABILITY = (
    "Stability AI Community License: free up to 1 million US dollars of yearly revenue, above that an "
    "enterprise licence"
)
OPENRAIL = "CreativeML Open RAIL++-M: commercial use allowed, uses listed in the licence forbidden"
NTU = "S-Lab License 1.0: non-commercial use only, redistribution included"
SINSR = "CC BY-NC-SA 4.0 and S-Lab License 1.0: non-commercial use only"
APACHE = "Apache-2.0"
MIT = "MIT"
WITHDRAWN = (
    "its publisher has withdrawn it from the hub; pull a copy that you trust as OWNER/REPO, or give "
    "the folder of one that you have"
)
RESSHIFT = "https://github.com/zsyOAOA/ResShift/releases/download/v2.0/"
VQ_F4, VQ_FACE = RESSHIFT + "autoencoder_vq_f4.pth", RESSHIFT + "ffhq512_vq_f8_dim8_face.pth"


@dataclass(frozen=True)
class Known:
    """A model of others: in a repository of the hub, as files of its authors, or by hand from a page."""

    kind: str
    """What it is."""
    use: str
    """What it is for."""
    licence: str
    """The licence of the weights and its main term."""
    repository: str | None = None
    """owner/name on the hub."""
    revision: str | None = None
    """The commit or branch that is pulled; None: the newest, whose commit the lock file keeps."""
    patterns: tuple[str, ...] = ("*",)
    """What of the repository is needed; only .safetensors, .json and .txt are ever taken."""
    gated: bool = False
    """Its terms must be accepted on its page by somebody who is logged in."""
    files: tuple[str, ...] = ()
    """Addresses of the authors' files, for `models convert`."""
    sha256: tuple[tuple[str, str], ...] = ()
    """Name of a file -> its SHA-256, where it is known for sure."""
    page: str | None = None
    """Where to get it by hand."""
    convert: str | None = None
    """The command that comes next; {folder} is where the files are."""
    note: str | None = None


def _parts(*names: str) -> tuple[str, ...]:
    """The full-precision weights and settings of a diffusers folder's components."""
    inner = (
        "*.json",
        "*.txt",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model-*.safetensors",
        "model.safetensors",
        "model-*.safetensors",
    )
    return ("model_index.json", *(f"{name}/{pattern}" for name in names for pattern in inner))


def _vq(kind: str, file: str, vq: str, licence: str = NTU, at: str = RESSHIFT) -> Known:
    """A network of ResShift's family and its autoencoder."""
    command = (
        f"unistep models convert {{folder}}/{file} NAME.safetensors --vae {{folder}}/{vq.split('/')[-1]}"
    )
    return Known(kind, "restores by itself, once converted", licence, files=(at + file, vq), convert=command)


SD2 = _parts("unet", "vae", "scheduler", "text_encoder", "tokenizer")
KNOWN = {
    "sd3-medium": Known(
        "Stable Diffusion 3 medium",
        "base of TSD-SR",
        STABILITY,
        "stabilityai/stable-diffusion-3-medium-diffusers",
        patterns=_parts("transformer", "vae", "scheduler"),
        gated=True,
        note="without its text encoders: add them with --include 'text_encoder*' --include 'tokenizer*'",
    ),
    "sd21-base": Known(
        "Stable Diffusion 2.1 base",
        "base of OSEDiff, PiSA-SR and DFOSD",
        OPENRAIL,
        "stabilityai/stable-diffusion-2-1-base",
        patterns=SD2,
        note=WITHDRAWN,
    ),
    "sd2-base": Known(
        "Stable Diffusion 2 base",
        "base of students of Stable Diffusion 2",
        OPENRAIL,
        "stabilityai/stable-diffusion-2-base",
        patterns=SD2,
        note=WITHDRAWN,
    ),
    "sdxl-base": Known(
        "Stable Diffusion XL base",
        "discriminator of dfosd-sd21-sdxl",
        OPENRAIL,
        "stabilityai/stable-diffusion-xl-base-1.0",
        patterns=_parts(
            "unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"
        ),
    ),
    "taesd": Known(
        "TAESD, a tiny autoencoder for Stable Diffusion 1 and 2",
        "--decoder tiny for students of Stable Diffusion 2",
        MIT,
        "madebyollin/taesd",
    ),
    "taesd3": Known(
        "TAESD3, a tiny autoencoder for Stable Diffusion 3",
        "--decoder tiny for students of Stable Diffusion 3",
        MIT,
        "madebyollin/taesd3",
    ),
    "resshift-v1": _vq("ResShift x4, 15 steps, first version", "resshift_realsrx4_s15_v1.pth", VQ_F4),
    "resshift-v2": _vq("ResShift x4, 15 steps, second version", "resshift_realsrx4_s15_v2.pth", VQ_F4),
    "resshift-v3": _vq("ResShift x4, 4 steps", "resshift_realsrx4_s4_v3.pth", VQ_F4),
    "resshift-bicubic": _vq("ResShift x4 for bicubic input, 4 steps", "resshift_bicsrx4_s4.pth", VQ_F4),
    "resshift-face": _vq("ResShift for faces, 4 steps", "resshift_faceir_s4.pth", VQ_FACE),
    "sinsr": _vq(
        "SinSR, one step of ResShift",
        "SinSR_v1.pth",
        VQ_F4,
        SINSR,
        "https://github.com/wyf0912/SinSR/releases/download/v1.0/",
    ),
    "osediff": Known(
        "OSEDiff, one step of Stable Diffusion 2.1 base",
        "restores, once converted with its base",
        f"{APACHE}; with its base: {OPENRAIL}",
        files=("https://github.com/cswry/OSEDiff/raw/main/preset/models/osediff.pkl",),
        convert="unistep models convert {folder}/osediff.pkl NAME.safetensors --base sd21-base",
    ),
    "tsdsr": Known(
        "TSD-SR, one step of Stable Diffusion 3 medium",
        "restores, once converted with its base",
        f"{APACHE}; with its base: {STABILITY}",
        page="https://github.com/Microtreei/TSD-SR",
        convert="unistep models convert FOLDER NAME.safetensors --base sd3-medium --embedding FOLDER",
        note="its files are on Google Drive and OneDrive, which only a browser can open",
    ),
}
"""Short name -> model."""


def named(name: str) -> tuple[str, Known] | None:
    """The short name and the entry of a short name or of a repository; None if nobody knows it."""
    if name in KNOWN:
        return name, KNOWN[name]
    return next(((short, known) for short, known in KNOWN.items() if known.repository == name), None)
