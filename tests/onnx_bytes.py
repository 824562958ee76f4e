"""Tiny embedding networks as the bytes of an ONNX file, written field by field: no package is needed."""

import struct


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def node(kind: str, inputs: list[str], output: str, **ints: list[int]) -> bytes:
    body = b"".join(part(1, name) for name in inputs) + part(2, output) + part(4, kind)
    for name, values in ints.items():
        body += part(5, part(1, name) + number(20, 7) + b"".join(number(8, value) for value in values))
    return part(1, body)


def scalar(name: str, value: float) -> bytes:
    return part(5, number(2, 1) + part(8, name) + part(9, struct.pack("<f", value)))


def tensor(field: int, name: str, shape: list[int | str]) -> bytes:
    dims = b"".join(part(1, part(2, n) if isinstance(n, str) else number(1, n)) for n in shape)
    return part(field, part(1, name) + part(2, part(1, number(1, 1) + part(2, dims))))


def pooling(shape: list[int | str], window: list[int], *, scales: bool = False, outputs: int = 1) -> bytes:
    """A network whose embedding is the mean of each window of one image [1,C,H,W].

    scales: it takes 0 to 255, and subtracts and multiplies itself, as exports from MXNet do.
    """
    graph, name = b"", "image"
    if scales:
        graph += node("Sub", ["image", "half"], "moved") + node("Mul", ["moved", "factor"], "scaled")
        graph += scalar("half", 127.5) + scalar("factor", 1 / 127.5)
        name = "scaled"
    graph += node("AveragePool", [name], "means", kernel_shape=window, strides=window)
    graph += node("Flatten", ["means"], "embedding")
    graph += part(2, "g") + tensor(11, "image", shape) + tensor(12, "embedding", [1, "n"])
    if outputs > 1:
        graph += tensor(12, "means", [1, "c", "h", "w"])
    return number(1, 8) + part(8, part(1, "") + number(2, 13)) + part(7, graph)
