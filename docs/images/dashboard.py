"""
Draw the picture of the Grafana dashboard, from a real run.

    python docs/images/dashboard.py [--minutes 4]                   run for so long, and draw
    python docs/images/dashboard.py --prometheus URL [--minutes 60]  draw the last hour of a Prometheus that has it
    python docs/images/dashboard.py --figures FILE                   draw once more what `--keep FILE` had kept

Grafana is no Python package, so the panels are drawn with matplotlib (pip install 'ifinu[pictures,test]'), each from
its own queries and in its own place. The run needs Debian's `prometheus`; what is in it is told in `dashboard_show.py`.
It takes a minute longer than the traffic lasts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests"), str(HERE.parents[1] / "tests" / "monitoring")]

import dashboard_file  # noqa: E402
from dashboard_drawing import Picture, Series, draw  # noqa: E402

_RATE_INTERVAL_S = 10
_POINTS = 240  # across a panel
_OTHERS = "Panels drawn with matplotlib from the dashboard's own queries, asked of a real Prometheus."
_OURS = (
    "Panels drawn with matplotlib from the dashboard's own queries, asked of a real Prometheus that scraped real "
    "processes every second. The gateway is a simulator and was away for 20 s (red);\nno cluster ran: the autoscalers' "
    "and the backup's figures are those of a stand-in for kube-state-metrics. Workers are processes, added as the "
    "backlog grew."
)


def ask(url: str, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
    """The series of an expression between two times, in epoch seconds."""
    fields = {"query": expr, "start": str(start), "end": str(end), "step": str(step)}
    answer = urllib3.request("GET", f"{url.rstrip('/')}/api/v1/query_range", fields=fields, timeout=30.0)
    body = answer.json()
    if body["status"] != "success":
        raise SystemExit(f"{expr}: {body}")
    found: list[dict[str, Any]] = body["data"]["result"]
    return found


def figures(url: str, start: float, end: float, *, rate_interval_s: float, caption: str) -> dict[str, Any]:
    """All that the picture shows, as JSON."""
    dashboard = dashboard_file.load()
    chosen = dashboard_file.variables(dashboard)
    step = max(1.0, round((end - start) / _POINTS))
    start, end = start - start % step, end - end % step
    panels: dict[str, list[dict[str, Any]]] = {}
    for query in dashboard_file.queries(dashboard):
        expr = dashboard_file.asked(query.expr, chosen, f"{rate_interval_s:g}s")
        for series in ask(url, expr, start, end, step):
            name = re.sub(r"\{\{(\w+)\}\}", lambda label, of=series: of["metric"].get(label[1], ""), query.legend)
            panels.setdefault(query.panel, []).append({"name": name, "values": series["values"]})
    outages = next(a["expr"] for a in dashboard["annotations"]["list"] if not a.get("builtIn"))
    marked = ask(url, dashboard_file.asked(outages, chosen), start, end, step)
    times = [float(at) for series in marked for at, _ in series["values"]]
    return {"panels": panels, "marked": times, "start": start, "end": end, "step": step, "caption": caption}


def picture(found: Mapping[str, Any]) -> Picture:
    """What is drawn, of these figures."""
    dashboard = dashboard_file.load()
    grid = np.arange(found["start"], found["end"] + found["step"] / 2, found["step"])
    series = {
        panel["title"]: [_on(grid, one) for one in found["panels"].get(panel["title"], [])]
        for panel in dashboard_file.panels(dashboard)
    }
    marks = _spans(found["marked"], found["step"])
    return Picture(dashboard, series, found["start"], found["end"], marks, found["caption"])


def _on(grid: np.ndarray, one: Mapping[str, Any]) -> Series:
    at = {round(float(t)): float(value) for t, value in one["values"]}
    return Series(one["name"], grid, np.array([at.get(round(float(t)), np.nan) for t in grid]))


def _spans(times: Sequence[float], step: float) -> list[tuple[float, float]]:
    spans: list[tuple[float, float]] = []
    for at in sorted(times):
        if spans and at - spans[-1][1] <= 2 * step:
            spans[-1] = spans[-1][0], at
        else:
            spans.append((at, at))
    return spans


@contextlib.contextmanager
def _run(minutes: float) -> Iterator[dict[str, Any]]:
    from dashboard_show import show  # the tests' processes, which a picture of another Prometheus does not need

    with (
        tempfile.TemporaryDirectory(prefix="ifinu-picture-") as directory,
        show(Path(directory), minutes * 60) as shown,
    ):
        yield figures(shown.server.url, shown.start, shown.end, rate_interval_s=_RATE_INTERVAL_S, caption=_OURS)


def main() -> None:
    """Run, ask and draw."""
    parser = argparse.ArgumentParser(description="Draw the picture of the Grafana dashboard.")
    parser.add_argument("--minutes", type=float, default=4.0, help="how much time it shows")
    parser.add_argument("--prometheus", metavar="URL", help="draw what this one has seen, in place of a run")
    parser.add_argument("--figures", type=Path, metavar="FILE", help="draw these, in place of a run")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="where to keep the figures")
    parser.add_argument("--out", type=Path, default=HERE / "dashboard.png")
    given = parser.parse_args()
    if given.figures:
        found = json.loads(given.figures.read_text())
    elif given.prometheus:
        end = time.time()
        found = figures(given.prometheus, end - given.minutes * 60, end, rate_interval_s=120, caption=_OTHERS)
    else:
        with _run(given.minutes) as found:
            pass
    if given.keep:
        given.keep.write_text(json.dumps(found))
    draw(picture(found), given.out)
    print(f"{given.out}: {given.out.stat().st_size / 1000:.0f} kB")  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
