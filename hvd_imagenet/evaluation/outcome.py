"""What an evaluation has found: as a table for evaluation.json, and as text for a terminal."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hvd_imagenet.errors import in_one_line
from hvd_imagenet.evaluation.classes import Classes, Confusion
from hvd_imagenet.totals import Totals

WORST = 20  # classes whose confusions are written
SHOWN = 10  # of them on a terminal
NAME = 32  # columns of a class's name on a terminal; of one that it is taken for, two thirds


@dataclass(frozen=True)
class Outcome:
    """What an evaluation of a checkpoint has found.

    Attributes:
        checkpoint: as it was asked for: last, best, or its folder.
        step: finished steps of it.
        split: val or train.
        precise_bn: images that batch normalisation's statistics were recomputed from; None: the running ones were used.
        totals: sums over all images.
        classes: the same by class.
    """

    checkpoint: str
    step: int
    split: str
    precise_bn: int | None
    totals: Totals
    classes: Classes

    def table(self) -> dict[str, Any]:
        """As evaluation.json has it; accuracies and shares are fractions. Classes without images are left out."""
        loss = self.totals.loss
        return {
            "checkpoint": self.checkpoint,
            "step": self.step,
            "split": self.split,
            "precise_bn": self.precise_bn,
            "loss": loss if math.isfinite(loss) else None,
            **self.totals.accuracies(),
            "count": self.totals.count,
            "classes": [
                {"name": one.name, "count": one.count, "top1": one.right / one.count, "top5": one.top5 / one.count}
                for one in self.classes
            ],
            "confusions": [
                {"class": one.name, "taken_for": one.taken_for, "count": one.count, "share": one.share}
                for _, confusions in self.classes.worst(WORST)
                for one in confusions
            ],
        }

    def text(self, width: int) -> str:
        """The sums in a line, and the worst classes with what they are taken for.

        Args:
            width: columns of the terminal.
        """
        totals = self.totals
        accuracies = "  ".join(f"{name} {value:.2%}" for name, value in totals.accuracies().items())
        kind = "images" if self.split == "val" else "training images"
        line = f"step {self.step}  loss {totals.loss:.4f}  {accuracies}  of {totals.count:,} {kind}"
        worst = self.classes.worst(SHOWN)
        if not worst:
            return line
        table = Table(box=None, pad_edge=False)
        table.add_column("worst classes", no_wrap=True)
        for name in ("images", "top1", "top5"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("taken for")
        for one, confusions in worst:
            shares = (f"{part / one.count:.1%}" for part in (one.right, one.top5))
            table.add_row(_name(one.name, NAME), f"{one.count:,}", *shares, _answers(confusions))
        drawn = io.StringIO()
        Console(file=drawn, width=width, color_system=None, highlight=False, markup=False, emoji=False).print(table)
        return f"{line}\n\n" + "\n".join(row.rstrip() for row in drawn.getvalue().splitlines())


def _answers(confusions: list[Confusion]) -> Text:
    parts = [Text.assemble(_name(one.taken_for, NAME * 2 // 3), f" {one.share:.1%}") for one in confusions]
    return Text(", ").join(parts)


def _name(name: str, columns: int) -> Text:
    """A class's name, which may be anything, as text of so many columns at most."""
    text = Text(in_one_line(name))
    text.truncate(columns, overflow="ellipsis")
    return text
