"""A finished run as a student's file, and in the layout of its method's authors."""

import json

import goldens
import torch
from safetensors.torch import load_file

from unistep.bases.sd21.authors import ALPHA, osediff_file

GOLDEN = goldens.GOLDEN / "osediff"


def test_osediff_pkl_is_as_its_authors_write_it():
    theirs = json.loads((GOLDEN / "config.json").read_text())["osediff.pkl"]
    states: dict[str, dict[str, torch.Tensor]] = {"state_dict_unet": {}, "state_dict_vae": {}}
    for name, tensor in load_file(GOLDEN / "osediff.safetensors").items():
        part, _, key = name.partition("/")
        states[part][key] = tensor

    def once(part: str, rank: int) -> dict[str, torch.Tensor]:
        """PEFT's names without the adapters', and B as it counts."""
        plain = {}
        for name, tensor in states[part].items():
            for adapter in ("encoder", "decoder", "others"):
                name = name.replace(f".default_{adapter}.", ".")
            plain[name] = tensor * (ALPHA / rank) if ".lora_B." in name else tensor
        return plain

    ours = osediff_file(
        once("state_dict_unet", theirs["rank_unet"]), once("state_dict_vae", theirs["rank_vae"])
    )
    for part, state in states.items():
        assert ours[part].keys() == state.keys()
        for name, tensor in state.items():
            torch.testing.assert_close(ours[part][name], tensor, msg=name)
    assert (ours["rank_unet"], ours["rank_vae"]) == (theirs["rank_unet"], theirs["rank_vae"])
    for name in (name for name in theirs if name.endswith("_modules")):
        assert set(ours[name]) == set(theirs[name]), name
