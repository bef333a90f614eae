"""Panels of a Grafana dashboard drawn with matplotlib: what Grafana shows of the same figures, near enough."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from PIL import Image

WIDTH_PX = 1600
_COLUMNS, _MARGIN_PX, _GAP_PX = 24, 14, 8
_UNIT_PX = 29  # height of one row of the grid
_HEAD_PX, _FOOT_PX = 62, 44

_PAGE, _PANEL, _EDGE, _GRID = "#111217", "#181B1F", "#25282E", "#26292F"
_TEXT, _DIM, _STRONG = "#CCCCDC", "#8E8E99", "#F2F2F7"
_RED = "#F2495C"
_PALETTE = (  # Grafana's classic one
    "#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9", "#705DA0", "#37872D", "#FADE2A",
)  # fmt: skip
_FONTS = ("Inter", "DejaVu Sans")  # Grafana's, if it is there
_PALETTE_COLOURS = 256  # of the file


class Series(NamedTuple):
    """What one query gave for one set of labels: epoch seconds, and values, NaN where there is none."""

    name: str
    times: np.ndarray
    values: np.ndarray


class Picture(NamedTuple):
    """
    All that is drawn.

    Attributes:
        dashboard: As its file has it.
        series: By a panel's title.
        start: Left edge of all graphs, in epoch seconds.
        end: Right edge.
        marks: From when until when something is marked in all graphs.
        caption: Said below.
    """

    dashboard: Mapping[str, Any]
    series: Mapping[str, Sequence[Series]]
    start: float
    end: float
    marks: Sequence[tuple[float, float]]
    caption: str


def draw(picture: Picture, file: Path) -> None:
    """Draw it into a PNG."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    style = {"font.family": next(name for name in _FONTS if name in installed), "text.color": _TEXT}
    with mpl.rc_context(style):
        _Drawing(picture).save(file)


class _Drawing:
    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        panels = picture.dashboard["panels"]
        units = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
        self._height = _HEAD_PX + units * _UNIT_PX + _FOOT_PX
        self._figure = Figure(figsize=(WIDTH_PX / 100, self._height / 100), dpi=100, facecolor=_PAGE)
        self._canvas = FigureCanvasAgg(self._figure)
        self._renderer = self._canvas.get_renderer()
        self._head()
        for panel in panels:
            self._panel(panel)
        self._foot()

    def save(self, file: Path) -> None:
        self._canvas.draw()
        image = Image.fromarray(np.asarray(self._canvas.buffer_rgba())).convert("RGB")
        image.quantize(_PALETTE_COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)

    # -- the page

    def _text(self, x: float, y: float, text: str, size: float, colour: str = _TEXT, **more: Any) -> float:
        """Write at pixels from the top left; returns the width in pixels."""
        drawn = self._figure.text(
            x / WIDTH_PX, 1 - y / self._height, text, fontsize=size, color=colour, va="center", zorder=3, **more
        )
        return float(drawn.get_window_extent(self._renderer).width)

    def _box(self, x: float, y: float, width: float, height: float, face: str, edge: str) -> None:
        self._figure.add_artist(
            FancyBboxPatch(
                (x / WIDTH_PX, 1 - (y + height) / self._height),
                width / WIDTH_PX,
                height / self._height,
                boxstyle="round,pad=0,rounding_size=0.0015",
                facecolor=face,
                edgecolor=edge,
                linewidth=0.8,
                mutation_aspect=WIDTH_PX / self._height,
                zorder=1,
            )
        )

    def _axes(self, x: float, y: float, width: float, height: float) -> Axes:
        box = (x / WIDTH_PX, 1 - (y + height) / self._height, width / WIDTH_PX, height / self._height)
        axes = self._figure.add_axes(box, facecolor="none", zorder=2)  # above the panel's box
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.tick_params(length=0, labelsize=7.2, colors=_DIM, pad=3)
        return axes

    def _head(self) -> None:
        y = 30.0
        x = _MARGIN_PX + 4.0
        x += self._text(x, y, "Dashboards  ›  ", 10.5, _DIM)
        x += self._text(x, y, self._picture.dashboard["title"], 12.5, _STRONG, weight="semibold") + 26
        for variable in self._picture.dashboard["templating"]["list"]:
            shown = "Prometheus" if variable["type"] == "datasource" else "All"
            label = "Data source" if variable["type"] == "datasource" else variable["label"]
            x = self._pill(x, y, label, shown)
        at = [f"{datetime.fromtimestamp(t, UTC):%H:%M:%S}" for t in (self._picture.start, self._picture.end)]
        day = f"{datetime.fromtimestamp(self._picture.start, UTC):%Y-%m-%d}"
        self._text(WIDTH_PX - _MARGIN_PX - 4, y, f"{day}  {at[0]} to {at[1]} UTC", 9.5, _TEXT, ha="right")

    def _pill(self, x: float, y: float, label: str, shown: str) -> float:
        widths = [len(word) * 6.6 + 20 for word in (label, shown)]
        self._box(x, y - 13, sum(widths), 26, _PANEL, _EDGE)
        self._text(x + widths[0] / 2, y, label, 8.5, _DIM, ha="center")
        self._text(x + widths[0] + widths[1] / 2, y, shown, 8.5, _TEXT, ha="center")
        return x + sum(widths) + 10

    def _foot(self) -> None:
        self._text(WIDTH_PX / 2, self._height - _FOOT_PX / 2, self._picture.caption, 8.6, _DIM, ha="center")

    def _panel(self, panel: Mapping[str, Any]) -> None:
        at = panel["gridPos"]
        column = (WIDTH_PX - 2 * _MARGIN_PX) / _COLUMNS
        x, y = _MARGIN_PX + at["x"] * column + _GAP_PX / 2, _HEAD_PX + at["y"] * _UNIT_PX + _GAP_PX / 2
        width, height = at["w"] * column - _GAP_PX, at["h"] * _UNIT_PX - _GAP_PX
        if panel["type"] == "row":
            self._text(x + 4, y + height / 2 + 2, "⌄", 10, _DIM, family="DejaVu Sans")
            self._text(x + 20, y + height / 2 + 2, panel["title"], 10.5, _STRONG, weight="semibold")
            return
        self._box(x, y, width, height, _PANEL, _EDGE)
        self._text(x + 9, y + 14, panel["title"], 8.8, _TEXT, weight="medium")
        kinds = {"stat": self._stat, "timeseries": self._graph, "state-timeline": self._states}
        kinds[panel["type"]](panel, x, y + 24, width, height - 24)

    # -- kinds of panels

    def _stat(self, panel: Mapping[str, Any], x: float, y: float, width: float, height: float) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        (series,) = self._picture.series[panel["title"]] or [Series("", np.array([]), np.array([]))]
        known = series.values[~np.isnan(series.values)]
        last = float(known[-1]) if known.size else math.nan
        mapped = _mapped(defaults, last)
        if mapped is not None:
            text, colour = mapped
        elif math.isnan(last):
            text, colour = defaults["noValue"], _DIM
        else:
            text, colour = written(last, defaults["unit"], defaults.get("decimals")), _step(defaults, last)
        self._text(x + width / 2, y + height * 0.36, text, 21, colour, ha="center", weight="semibold")
        axes = self._axes(x + 1, y + height * 0.62, width - 2, height * 0.38 - 1)
        axes.axis("off")
        axes.plot(series.times, series.values, color=colour, linewidth=1)
        axes.fill_between(series.times, series.values, color=colour, alpha=0.18, linewidth=0)
        axes.set_xlim(self._picture.start, self._picture.end)
        axes.set_ylim(0, (known.max() if known.size and known.max() > 0 else 1) * 1.1)

    def _graph(self, panel: Mapping[str, Any], x: float, y: float, width: float, height: float) -> None:
        series = self._picture.series[panel["title"]]
        looks = [_Look.of(panel, one.name, index) for index, one in enumerate(series)]
        legend_px = self._legend(series, looks, x, y + height, width)
        right = any(look.right for look in looks)
        left_px, right_px = 44, 40 if right else 12
        where = (x + left_px, y + 4, width - left_px - right_px, height - legend_px - 26)
        axes = self._axes(*where)
        second = self._axes(*where) if right else None
        base = np.zeros(0)
        for one, look in zip(series, looks, strict=True):
            on = second if look.right and second is not None else axes
            if look.stacked:
                grid = np.nan_to_num(one.values)
                below = base if base.size else np.zeros_like(grid)
                base = below + grid
                on.fill_between(one.times, below, base, color=look.colour, alpha=look.fill, linewidth=0)
                continue
            on.plot(
                one.times, one.values, color=look.colour, linewidth=1.1, dashes=(5, 3) if look.dashed else (None, None)
            )
            if look.fill:
                on.fill_between(one.times, one.values, color=look.colour, alpha=look.fill, linewidth=0)
        self._scales(panel, axes, [(s, look) for s, look in zip(series, looks, strict=True) if not look.right], base)
        if second is not None:
            self._scales(panel, second, [(s, look) for s, look in zip(series, looks, strict=True) if look.right], None)
            second.yaxis.tick_right()
            second.tick_params(length=0, labelbottom=False)
            second.grid(visible=False)

    def _states(self, panel: Mapping[str, Any], x: float, y: float, width: float, height: float) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        series = self._picture.series[panel["title"]]
        left_px = max((self._measure(one.name, 7.6) for one in series), default=0) + 22
        axes = self._axes(x + left_px, y + 4, width - left_px - 12, height - 26)
        for row, one in enumerate(series):
            for start, end, value in _runs(one, self._picture.end):
                text, colour = _mapped(defaults, value) or ("", _DIM)
                axes.add_patch(
                    Rectangle((start, row - 0.4), end - start, 0.8, facecolor=colour, alpha=0.8, linewidth=0)
                )
                if (end - start) / (self._picture.end - self._picture.start) > 0.1:
                    axes.text((start + end) / 2, row, text, ha="center", va="center", fontsize=7.4, color="#101116")
        axes.set_ylim(len(series) - 0.5, -0.5)
        axes.set_yticks(range(len(series)), [one.name for one in series])
        axes.tick_params(axis="y", labelsize=7.6, colors=_TEXT)
        self._time_scale(axes)

    # -- their parts

    def _measure(self, text: str, size: float) -> float:
        drawn = self._figure.text(0, 0, text, fontsize=size)
        width = float(drawn.get_window_extent(self._renderer).width)
        drawn.remove()
        return width

    def _legend(self, series: Sequence[Series], looks: Sequence[_Look], x: float, bottom: float, width: float) -> float:
        """Names below the graph, in as many lines as they need; returns their height in pixels."""
        lines: list[list[tuple[Series, _Look, float]]] = [[]]
        used = 0.0
        for one, look in zip(series, looks, strict=True):
            needs = self._measure(one.name, 7.4) + 28
            if used + needs > width - 16 and lines[-1]:
                lines.append([])
                used = 0.0
            lines[-1].append((one, look, needs))
            used += needs
        height = 15 * len(lines)
        for number, line in enumerate(lines):
            at, y = x + 12, bottom - height + 15 * number + 3
            for one, look, needs in line:
                self._figure.add_artist(
                    Rectangle((at / WIDTH_PX, 1 - (y + 1.5) / self._height), 11 / WIDTH_PX, 3 / self._height,
                              facecolor=look.colour, linewidth=0, zorder=2)
                )  # fmt: skip
                self._text(at + 16, y, one.name, 7.4, _DIM)
                at += needs
        return height

    def _scales(
        self, panel: Mapping[str, Any], axes: Axes, drawn: Sequence[tuple[Series, _Look]], stacked: np.ndarray | None
    ) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        unit = drawn[0][1].unit if drawn else defaults["unit"]
        values = [one.values[~np.isnan(one.values)] for one, _ in drawn]
        if stacked is not None and stacked.size:
            values.append(stacked)
        top = max((float(found.max()) for found in values if found.size), default=0.0)
        top = min(defaults.get("max", math.inf), top * 1.12) or 1.0
        axes.set_ylim(0, top)
        axes.yaxis.set_major_locator(FixedLocator(list(_ticks(top, unit, whole=defaults.get("decimals") == 0))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, unit)))
        axes.grid(visible=True, axis="both", color=_GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        self._time_scale(axes)

    def _time_scale(self, axes: Axes) -> None:
        start, end = self._picture.start, self._picture.end
        step = next(s for s in (15, 30, 60, 120, 300, 900, 3600, 86_400) if (end - start) / s <= 6)
        ticks = np.arange(math.ceil(start / step) * step, end, step)
        axes.set_xlim(start, end)
        axes.set_xticks(
            ticks, [f"{datetime.fromtimestamp(t, UTC):{'%H:%M:%S' if step < 60 else '%H:%M'}}" for t in ticks]
        )
        for since, until in self._picture.marks:
            axes.axvspan(since, until, color=_RED, alpha=0.10, linewidth=0, zorder=0)
            for edge in (since, until):
                axes.axvline(edge, color=_RED, linewidth=0.7, dashes=(3, 3), alpha=0.8)


class _Look(NamedTuple):
    """How a series is drawn."""

    colour: str
    unit: str
    right: bool
    dashed: bool
    fill: float
    stacked: bool

    @classmethod
    def of(cls, panel: Mapping[str, Any], name: str, index: int) -> _Look:
        defaults = panel["fieldConfig"]["defaults"]
        custom = defaults["custom"]
        own = {
            prop["id"]: prop["value"]
            for override in panel["fieldConfig"]["overrides"]
            if override["matcher"]["options"] == name
            for prop in override["properties"]
        }
        return cls(
            colour=own["color"]["fixedColor"] if "color" in own else _PALETTE[index % len(_PALETTE)],
            unit=own.get("unit", defaults["unit"]),
            right=own.get("custom.axisPlacement") == "right",
            dashed="custom.lineStyle" in own,
            fill=own.get("custom.fillOpacity", custom["fillOpacity"]) / 100,
            stacked=custom["stacking"]["mode"] == "normal",
        )


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """A value as Grafana writes it in a unit."""
    suffix = re.fullmatch(r"suffix:(.*)", unit)
    if suffix:
        return _number(value, decimals) + suffix[1]
    return _UNITS.get(unit, _number)(value, decimals)


def _ticks(top: float, unit: str, *, whole: bool) -> np.ndarray:
    """Where the axis has its lines: round numbers of the largest size of the unit that fits."""
    sizes = {"bytes": (2.0**30, 2.0**20, 2.0**10), "s": (86_400.0, 3_600.0, 60.0)}.get(unit, ())
    size = next((size for size in sizes if top >= 2 * size), 1.0)
    steps = [1, 2, 3, 6, 10] if unit == "s" and size == 1 and 10 < top < 120 else [1, 2, 2.5, 5, 10]
    return (
        np.asarray(
            MaxNLocator(4, integer=whole or (unit == "short" and top > 4), steps=steps).tick_values(0, top / size)
        )
        * size
    )


def _number(value: float, decimals: int | None = None) -> str:
    for size, letter in ((1e6, " Mil"), (1e4, " K")):
        if abs(value) >= size:
            return f"{value / (1e6 if letter == ' Mil' else 1e3):.3g}{letter}"
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.4g}" if abs(value) >= 1000 else f"{value:.3g}"


def _percent(value: float, decimals: int | None = None) -> str:
    return f"{value * 100:.{decimals}f}%" if decimals is not None else f"{value * 100:.3g}%"


def _seconds(value: float, decimals: int | None = None) -> str:
    if value == 0:
        return "0 s"
    for size, word in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if abs(value) >= size:
            return f"{value / size:.3g} {word}"
    return f"{value * 1e6:.3g} µs"


def _bytes(value: float, decimals: int | None = None) -> str:
    for size, word in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(value) >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:.0f} B"


_UNITS: Mapping[str, Callable[[float, int | None], str]] = {
    "percentunit": _percent,
    "s": _seconds,
    "bytes": _bytes,
}


def _mapped(defaults: Mapping[str, Any], value: float) -> tuple[str, str] | None:
    for mapping in defaults["mappings"]:
        found = mapping["options"].get(f"{value:g}")
        if found:
            return found["text"], found["color"]
    return None


def _step(defaults: Mapping[str, Any], value: float) -> str:
    steps = defaults["thresholds"]["steps"]
    return str([step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1])


def _runs(series: Series, end: float) -> list[tuple[float, float, float]]:
    """From when until when it had which value; a gap is longer than three samples apart."""
    known = ~np.isnan(series.values)
    times, values = series.times[known], series.values[known]
    if not times.size:
        return []
    step = float(np.diff(series.times).min()) if series.times.size > 1 else 1.0
    runs = [[float(times[0]), float(times[0]), float(values[0])]]
    for time, value in zip(times[1:], values[1:], strict=True):
        if time - runs[-1][1] > 3 * step:
            runs.append([float(time), float(time), float(value)])
        elif value != runs[-1][2]:
            runs[-1][1] = float(time)
            runs.append([float(time), float(time), float(value)])
        runs[-1][1] = float(time)
    return [(start, min(until + step, end), value) for start, until, value in runs]


plt.switch_backend("agg")
