"""What a bench found, as a table for people or one JSON object for scripts."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `most` is the budget: it is kept while value <= most. None could not be measured, and is not counted."""

    who: str
    what: str
    value: float | None
    unit: str
    most: float | None = None
    remark: str = ""

    @property
    def kept(self) -> bool:
        return self.most is None or self.value is None or self.value <= self.most


@dataclass(slots=True)
class Report:
    name: str
    figures: list[Figure] = field(default_factory=list)
    began_wall: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    @property
    def kept(self) -> bool:
        return all(figure.kept for figure in self.figures)

    def add(self, who: str, what: str, value: float, unit: str, most: float | None = None, remark: str = "") -> None:
        self.figures.append(Figure(who, what, value, unit, most, remark))

    def skip(self, who: str, why: str) -> None:
        """Say in words why something is not measured here."""
        self.figures.append(Figure(who, "not measured", None, "", remark=why))

    def as_json(self) -> str:
        figures = [{**asdict(figure), "kept": figure.kept} for figure in self.figures]
        return json.dumps(
            {"bench": self.name, "began": self.began_wall, "machine": machine(), "kept": self.kept, "figures": figures}
        )

    def as_table(self) -> str:
        rows = [("who", "what", "measured", "budget", "", "")]
        for figure in self.figures:
            unit = f" {figure.unit}" if figure.unit else ""
            value = "" if figure.value is None else f"{_short(figure.value)}{unit}"
            budget = "" if figure.most is None else f"≤ {_short(figure.most)}{unit}"
            verdict = "" if figure.most is None else ("kept" if figure.kept else "MISSED")
            rows.append((figure.who, figure.what, value, budget, verdict, figure.remark))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([f"{self.name} · {machine()}", *lines, "all budgets kept" if self.kept else "a budget was missed"])


def machine() -> str:
    """What it ran on, and how busy that was: figures of a noisy machine are read with care."""
    system = f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    return f"{platform.machine()}, {os.cpu_count()} processors, {system}, load {os.getloadavg()[0]:.1f}"


def spread(values: Sequence[float], unit: str) -> str:
    """How far the values lie apart: the quartiles, in words for a remark."""
    low, _, high = statistics.quantiles(values, n=4)
    return f"half of {len(values)} within {_short(low)} to {_short(high)} {unit}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
