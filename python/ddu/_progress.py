"""A bar where tqdm is installed and somebody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

__all__ = ["Bar"]


class Bar:
    """Counts images; shows itself on a terminal or in a notebook if tqdm is there."""

    def __init__(self, total: int | None, show: bool | None, unit: str = "image") -> None:
        self._close: Callable[[], None] | None = None
        self._bar = None
        if show is None:
            show = sys.stderr.isatty() or "ipykernel" in sys.modules
        if show:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, unit=unit)

    def advance(self) -> None:
        """One more is done."""
        if self._bar is not None:
            self._bar.update(1)

    def at(self, done: int, of: int) -> None:
        """So many are done."""
        if self._bar is not None:
            self._bar.total = of
            self._bar.update(done - self._bar.n)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
