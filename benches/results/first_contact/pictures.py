"""Pictures and masks without a library: bands of colour with a grain, and which band each pixel is in.

    python3 pictures.py FOLDER SIZE      # writes FOLDER/pictures/NN.png and FOLDER/masks/NN.png

The PNGs are written without filters, so that `rgb` reads them back with zlib alone.
"""

import struct
import sys
import zlib
from pathlib import Path

COUNT = 4
CLASSES = 21


def png(path, size, channels, rows):
    """8-bit gray (one channel) or RGB (three); `rows` are bytes."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size, size, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b""))


def rgb(path):
    """(size, bytes) of a picture that `png` wrote."""
    data = Path(path).read_bytes()
    size, at, lines = struct.unpack(">I", data[16:20])[0], 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        if kind == b"IDAT":
            lines += data[at + 8:at + 8 + length]
        at += 12 + length
    raw, row = zlib.decompress(lines), 3 * size + 1
    return size, b"".join(raw[i * row + 1:(i + 1) * row] for i in range(size))


def main():
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    for name in ("pictures", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    state = 1
    for n in range(COUNT):
        colours, labels = [], []
        for y in range(size):
            line, mask = bytearray(), bytearray()
            for x in range(size):
                state = (state * 1103515245 + 12345) & 0x7fffffff
                band = (x + n * 37) * 7 // size * 3 % CLASSES + y * 3 // size
                grain = state >> 26
                line += bytes(((band * 53 + grain) % 256, (band * 101 + x * 90 // size + grain) % 256, (y * 200 // size + grain) % 256))
                mask.append(band % CLASSES)
            colours.append(bytes(line))
            labels.append(bytes(mask))
        png(folder / "pictures" / f"{n:02}.png", size, 3, colours)
        png(folder / "masks" / f"{n:02}.png", size, 1, labels)


if __name__ == "__main__":
    main()
