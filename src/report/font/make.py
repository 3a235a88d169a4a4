"""Draws sans.png: the glyphs of DejaVu Sans at 40 pixels an em, 8-bit coverage, 16 cells a row.

A cell is 56 x 56: the pen starts 8 pixels from its left edge, the baseline is its row 40, and its
last row has as many lit pixels as the glyph advances the pen. Needs pillow and the font.

    python make.py DejaVuSans.ttf
"""

import sys

from PIL import Image, ImageDraw, ImageFont

CELL, PEN, BASELINE, COLUMNS = 56, 8, 40, 16
CHARACTERS = [*map(chr, range(0x20, 0x7F)), *map(chr, range(0xA0, 0x100)), "\u2212", "\u2026", "\u2013"]

font = ImageFont.truetype(sys.argv[1], 40)
rows = -(-len(CHARACTERS) // COLUMNS)
atlas = Image.new("L", (COLUMNS * CELL, rows * CELL))
for i, character in enumerate(CHARACTERS):
    cell = Image.new("L", (CELL, CELL))
    draw = ImageDraw.Draw(cell)
    draw.text((PEN, BASELINE), character, font=font, fill=255, anchor="ls")
    draw.rectangle((0, CELL - 1, CELL, CELL), fill=0)
    draw.line((0, CELL - 1, round(font.getlength(character)) - 1, CELL - 1), fill=255)
    atlas.paste(cell, (i % COLUMNS * CELL, i // COLUMNS * CELL))
atlas.save("sans.png", optimize=True)
