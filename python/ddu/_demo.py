"""The demo: drawn street scenes and a small network that was trained on them; nothing is downloaded."""

from __future__ import annotations

import json
import os
from typing import Any

from . import _ddu
from ._density import Path
from ._progress import Bar


def demo(folder: Path = "out/demo", *, progress: bool | None = None) -> dict[str, Any]:
    """Fits the demo's network to drawn scenes and runs it on 50 that hold what no training scene held.

    Writes pictures, ``summary.json`` and ``index.html`` to ``folder``, as ``ddu demo`` does, and returns what
    ``summary.json`` holds. It takes about 10 s on two cores.
    """
    with Bar(None, progress, "scene") as bar:
        return dict(json.loads(_ddu.demo(os.fspath(folder), bar.at)))


def scenes(folder: Path, count: int = 100, seed: int = 0) -> None:
    """Draws a labelled dataset in VOC layout, as ``ddu demo --scenes``.

    ``count`` scenes in the split ``train``, a tenth as many in ``val`` and in ``test``; in ``test`` stand objects of
    unknown classes.
    """
    _ddu.scenes(os.fspath(folder), count, seed)
