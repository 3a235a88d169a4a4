"""What an evaluation found, as a mapping that shows itself in a notebook."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ._density import Path


class Report(Mapping[str, Any]):
    """The figures, by the names of ``results.json`` (docs/formats.md): ``report["scores"]["density"]["unknown"]``."""

    def __init__(self, figures: Mapping[str, Any]) -> None:
        self._figures = dict(figures)

    def __getitem__(self, name: str) -> Any:
        return self._figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)

    def save(self, path: Path) -> None:
        """Writes the figures as JSON."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self._figures, file, indent=2)
            file.write("\n")

    def _rows(self) -> Iterator[list[str]]:
        for finds in ("errors", "unknown"):
            for name, score in self._figures["scores"].items():
                found = score[finds]
                if found is None:
                    continue
                auroc = found["auroc"]
                between = "" if auroc["low"] is None else f"{auroc['low']:.3f} to {auroc['high']:.3f}"
                figures = (auroc, found["ap"], found["fpr95"])
                values = [f"{figure['value']:.4f}" for figure in figures]
                yield [finds, name, str(found["positives"]), values[0], between, *values[1:]]

    _HEAD = ("finds", "score", "positives", "AUROC", "95 %", "AP", "FPR95")

    def _title(self) -> str:
        accuracy = self._figures["accuracy"]

        def percent(value: float | None) -> str:
            return "-" if value is None else f"{100 * value:.2f} %"

        return (
            f"{self['images']} images, {self['pixels']} labelled pixels: pixel accuracy "
            f"{percent(accuracy['pixel_accuracy'])}, mIoU {percent(accuracy['mean_iou'])}"
        )

    def __repr__(self) -> str:
        rows = [list(self._HEAD), *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self._HEAD))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self._title(), *(line.rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        def row(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = "".join(row(cells, "td") for cells in self._rows())
        head = row(list(self._HEAD), "th")
        return f"<p>{html.escape(self._title())}</p><table><thead>{head}</thead><tbody>{body}</tbody></table>"
