"""Shards and their index: whole or named, read row by row, never outside of their folder."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from unistep.data.shards import Crop, Made, crops, digest, read_index, save_index, save_shard, shard_header
from unistep.errors import DataError

MADE = Made("compact", "ab" * 32, 16, False, "fp32")


def write(folder: Path, shards: int = 3, rows: int = 2) -> list[dict[str, torch.Tensor]]:
    """A prepared data set of random pixels."""
    folder.mkdir(exist_ok=True)
    generator, made, entries = torch.Generator().manual_seed(0), [], []
    for i in range(shards):
        x_hq = torch.randint(256, (rows, 3, 16, 16), generator=generator, dtype=torch.uint8)
        made.append({"x_hq": x_hq, "z_hq": torch.randn(rows, 4, 2, 2, generator=generator)})
        path = folder / f"shard-{i}.safetensors"
        save_shard(path, made[-1], {"contents": str(i)})
        names = [f"{i}.png@0,{row}" for row in range(rows)]
        texts = [None if row else f"text {i}" for row in range(rows)]
        entries.append({"file": path.name, "sha256": digest(path), "count": rows, "names": names,
                        "photographs": [f"{i}.png"] * rows, "texts": texts})  # fmt: skip
    save_index(folder, MADE, entries, {"data": {"images": shards}})
    return made


def loud(line: str) -> None:
    pytest.fail(f"unexpected report: {line}")


def test_every_row_is_a_crop(tmp_path):
    made = write(tmp_path)
    found = crops(tmp_path, False, loud)
    assert [crop.name for crop in found] == [f"{i}.png@0,{row}" for i in range(3) for row in range(2)]
    assert [crop.text for crop in found] == ["text 0", None, "text 1", None, "text 2", None]
    for k, crop in enumerate(found):
        assert crop.made == MADE and crop.photograph == f"{k // 2}.png"
        for name, tensor in made[k // 2].items():
            assert torch.equal(crop.read(name), tensor[k % 2])


def test_the_same_contents_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name)
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1] and len(files[0]) == 4
    assert shard_header(tmp_path / "one" / "shard-1.safetensors") == {"contents": "1"}


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[:-7])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        data[-5] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["gone", "cut", "empty", "one bit"])
def test_a_corrupt_shard_is_named_skipped_and_counted(tmp_path, how):
    write(tmp_path)
    damage(tmp_path / "shard-1.safetensors", how)
    lines: list[str] = []
    found = crops(tmp_path, False, lines.append)
    assert {crop.photograph for crop in found} == {"0.png", "2.png"}
    assert len(lines) == 2 and lines[0].startswith("skipped: ") and "shard-1.safetensors" in lines[0]
    assert lines[1] == "1 of 3 shards skipped"
    with pytest.raises(DataError, match=r"shard-1\.safetensors"):
        crops(tmp_path, True, loud)


PAIRS = Made("", "", 16, False, "", "cd" * 32, (("light", 0.25), ("bicubic", 1.0)), 7, 3)


def test_an_index_of_latents_is_what_it_was_before_there_were_pairs(tmp_path):
    write(tmp_path)
    table = json.loads((tmp_path / "index.json").read_text())["made"]
    assert table == {"base": "compact", "sha256": "ab" * 32, "patch": 16, "usm_sharpen": False,
                     "latents": "fp32"}  # fmt: skip
    assert read_index(tmp_path)[0] == MADE and not MADE.pairs


def test_what_pairs_were_made_with_comes_back(tmp_path):
    save_index(tmp_path, PAIRS, [], {})
    found, _ = read_index(tmp_path)
    assert found == PAIRS and hash(found) == hash(PAIRS) and found.pairs
    for name, other in (("restorer", "ef" * 32), ("degradations", ()), ("seed", 8), ("draws", 1)):
        assert found != dataclasses.replace(found, **{name: other})


def test_no_shard_left(tmp_path):
    write(tmp_path, shards=1)
    damage(tmp_path / "shard-0.safetensors", "cut")
    with pytest.raises(DataError, match="it is damaged, the same unistep prepare makes it anew"):
        crops(tmp_path, False, lambda _: None)
    write(tmp_path / "none", shards=1, rows=0)
    with pytest.raises(DataError, match="expected crops, found none"):
        crops(tmp_path / "none", False, loud)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"made": {"base": "sd3"}},
        {"made": []},
        {"made": {**MADE.to_dict(), "degradations": [["light"]]}},
        {"made": {**MADE.to_dict(), "degradations": 3}},
        {"shards": [{"file": "shard-0.safetensors"}]},
        {"shards": [{"file": "../shard-0.safetensors", "sha256": "", "count": 0, "names": [],
                     "photographs": [], "texts": []}]},
        {"shards": [{"file": "shard-0.safetensors", "sha256": "", "count": 2, "names": ["a"],
                     "photographs": ["a"], "texts": [None]}]},
        {"shards": [{"file": "shard-0.safetensors", "count": 0, "names": [], "photographs": [],
                     "texts": []}]},
        {"shards": [{"file": "shard-0.safetensors", "sha256": "", "count": 1, "names": [7],
                     "photographs": ["a"], "texts": [None]}]},
    ],
)  # fmt: skip
def test_an_index_of_another_kind(tmp_path, change):
    write(tmp_path)
    index = tmp_path / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(DataError, match="expected the index of a prepared data set"):
        read_index(tmp_path)


def test_a_damaged_index(tmp_path):
    write(tmp_path)
    for text in ("", "[]", "{", "\0"):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(DataError, match="expected the index of a prepared data set"):
            crops(tmp_path, False, loud)


def test_a_shard_that_changes_while_it_is_read(tmp_path):
    write(tmp_path)
    crop = crops(tmp_path, False, loud)[0]
    damage(crop.shard, "cut")
    with pytest.raises(DataError, match="expected a whole shard"):
        crop.read("x_hq")
    with pytest.raises(DataError, match="expected a whole shard"):
        dataclasses.replace(crop, shard=tmp_path / "absent").read("x_hq")
    assert isinstance(crop, Crop) and str(crop) == f"{crop.shard}: 0.png@0,0"
