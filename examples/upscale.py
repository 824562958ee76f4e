"""Upscale one photograph from Python.

python examples/upscale.py photo.jpg large.png
"""

import sys

from unistep import Upscaler, read_image, write_image

if len(sys.argv) != 3:
    sys.exit(__doc__)

picture = read_image(sys.argv[1])  # upright, sRGB floats, with its profile and metadata
upscaler = Upscaler.from_pretrained()  # the model inside the package, on a GPU if there is one
write_image(sys.argv[2], upscaler(picture, scale=4))

# PIL images and numpy arrays work too, and come back as what they were:
#   large = upscaler(Image.open("photo.jpg"), width=3000)
