"""TAESD whole: the decoder that ships, and the encoder that it was trained with."""

from torch import Tensor, nn

from unistep.autoencoder.codecs import TinyBlock, TinyDecoder


class TinyCodec(TinyDecoder):
    """TAESD's encoder too. The latents of a base whose encoder was trained on need that encoder instead."""

    def __init__(self, channels: int, shift: float = 0.0):
        super().__init__(channels, shift)
        w = self.width
        layers: list[nn.Module] = [nn.Conv2d(3, w, 3, padding=1), TinyBlock(w)]
        for _ in range(3):
            layers += [nn.Conv2d(w, w, 3, stride=2, padding=1, bias=False)]
            layers += [TinyBlock(w), TinyBlock(w), TinyBlock(w)]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(w, channels, 3, padding=1))

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        out: Tensor = self.encoder((x + 1) / 2)
        return out + self.shift
