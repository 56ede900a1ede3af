"""What bench allreduce has found, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from hvd_imagenet.bench import report


def show(
    found: dict[str, Any], rows: Mapping[str, list[dict[str, Any]]], titles: Mapping[str, str], console: Console
) -> None:
    """Sizes downwards, contestants beside each other.

    Args:
        rows: of each contestant, by its name, all for the same sizes.
    """
    told = found["settings"]
    nodes = f" on {report.counted(told['nodes'], 'node')}" if told["nodes"] > 1 else ""
    table = Table(
        title=f"sum over {report.counted(told['workers'], 'worker')}{nodes}: milliseconds, and MB/s of a link, "
        f"{report.turns(told)}",
        caption=f"{report.FOOTNOTE}; MB/s: 2 (p - 1) / p bytes / seconds; {found['machine']['processor']}",
    )
    table.add_column("bytes", justify="right")
    table.add_column("tensors", justify="right")
    for name in rows:
        table.add_column(titles[name], justify="right")
    for of_size in zip(*rows.values(), strict=True):
        cells = [_cell(row) for row in of_size]
        table.add_row(size(of_size[0]["bytes"]), str(of_size[0]["tensors"]), *cells)
        if of_size[0]["tensors"] > 1:
            table.add_section()
    console.print(table)


def size(count: int) -> str:
    """Such as 4 KB, of 1,024 bytes each."""
    for unit, factor in (("MB", 2**20), ("KB", 2**10)):
        if count % factor == 0:
            return f"{count // factor} {unit}"
    return f"{count:,} B"


def _cell(row: Mapping[str, Any]) -> str:
    in_ms = {key: 1000 * row["seconds"][key] for key in ("median", "low", "high")}
    return f"{report.cell(in_ms, ',.3g')}\n{row['bus_bytes_per_second']['median'] / 1e6:,.0f} MB/s"
