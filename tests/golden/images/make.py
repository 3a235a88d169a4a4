"""Makes cmyk.jpg (Adobe-inverted CMYK, as image editors save it) and cmyk.rgb: what it shows, from
the formula that PIL uses (channel = 255 - min(255, ink + black)). Run in this folder; needs pillow."""

import numpy as np
from PIL import Image

y, x = np.mgrid[0:24, 0:32]
rgb = np.stack([x * 7, y * 10, (x + y) * 4], -1).clip(0, 255).astype(np.uint8)
Image.fromarray(rgb).convert("CMYK").save("cmyk.jpg", quality=95)
np.asarray(Image.open("cmyk.jpg").convert("RGB")).tofile("cmyk.rgb")

# JPEGs as encoders write them, for what is damaged on purpose in tests/images.rs.
noise = np.random.default_rng(7).integers(-9, 10, (45, 61, 3))
y, x = np.mgrid[0:45, 0:61]
rgb = np.stack([x * 4, y * 5, 128 + 90 * np.sin(x * y / 70)], -1)
photo = Image.fromarray((rgb + noise).clip(0, 255).astype(np.uint8))
photo.save("baseline-420.jpg", quality=80, subsampling="4:2:0")
photo.save("progressive-420.jpg", quality=80, subsampling="4:2:0", progressive=True)
photo.save("restart-422.jpg", quality=80, subsampling="4:2:2", restart_marker_blocks=3)
photo.save("progressive-restart-444.jpg", quality=60, subsampling="4:4:4", progressive=True, restart_marker_rows=1)
photo.convert("L").save("gray-progressive.jpg", quality=70, progressive=True)
