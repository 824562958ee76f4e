"""Tiny Stable Diffusions as bases, with embeddings by seed, and what their networks train."""

import copy
import functools

import goldens
import torch

from unistep.autoencoder.codecs import KLCodec
from unistep.bases.latentbase import Opened
from unistep.bases.sd3.base import SD3Base
from unistep.bases.sd3.network import SD3Config
from unistep.bases.sd21.base import SD21Base
from unistep.bases.sd21.network import SD21Config

GOLDEN = goldens.GOLDEN
TEACHER = GOLDEN / "tsd_train" / "teacher.safetensors"
TEXTS = ("", "bad", "a cat", "a dog")
KINDS = {
    "sd3": (SD3Base, SD3Config, GOLDEN / "tsd_infer" / "sd3", (7, 32), (24,)),
    "sd21": (SD21Base, SD21Config, GOLDEN / "osediff" / "sd21", (6, 20), None),
}
"""Base -> its class, settings, tiny model, and the shapes of a prompt's embeddings."""
VIEW = {"sd3": "flow", "sd21": "ddpm"}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def read(kind):
    made, config, folder, *_ = KINDS[kind]
    return made.read(folder, config())


def open_base(kind, **settings):
    made, config, folder, words, pooled = KINDS[kind]
    # Copies are aligned, tensors in a file need not be: the CPU's kernels then round otherwise.
    net, codec = copy.deepcopy((read(kind).net, read(kind).codec))
    settings = {"rank": 3, "rank_encoder": 2, "rank_score": 2, "negative": "bad", **settings}
    codec = KLCodec(codec.vae, settings.get("shift", False))

    def prompts(text):
        seed = TEXTS.index(text)
        return noise(1, *words, seed=seed), None if pooled is None else noise(1, *pooled, seed=seed)

    return made(Opened(net, codec, read(kind).process, folder), config(**settings), prompts)


def trained(net):
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def tensors(*modules):
    return [p for module in modules for p in [*module.parameters(), *module.buffers()]]


def taught(net, seed=0):
    """With LoRAs that do something."""
    for i, (name, p) in enumerate(sorted(trained(net).items())):
        if "lora_B" in name:
            p.data.copy_(0.05 * noise(*p.shape, seed=1000 * seed + i))
    return net


def apart(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()
