"""Makes cmyk.jpg (Adobe-inverted CMYK, as image editors save it) and cmyk.rgb: what it shows, from
the formula that PIL uses (channel = 255 - min(255, ink + black)). Run in this folder; needs pillow."""

import numpy as np
from PIL import Image

y, x = np.mgrid[0:24, 0:32]
rgb = np.stack([x * 7, y * 10, (x + y) * 4], -1).clip(0, 255).astype(np.uint8)
Image.fromarray(rgb).convert("CMYK").save("cmyk.jpg", quality=95)
np.asarray(Image.open("cmyk.jpg").convert("RGB")).tofile("cmyk.rgb")
