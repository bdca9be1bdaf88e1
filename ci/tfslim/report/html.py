"""A report as one page that needs nothing else: no network, no script, its pictures inside."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tfslim.report import plots
from tfslim.report.blocks import Chart, Facts, Paragraph, Report, Status, Table
from tfslim.report.inert import keep_together

__all__ = ["html"]

# Signs that every font has; a comment's are pictures.
_SIGNS: dict[Status, str] = {"good": "✓", "bad": "✗", "unsure": "?"}


def html(report: Report) -> str:
    """Return the page. Everything in it is escaped but the pictures, which `plots` draws."""
    return _environment().get_template("report.html.j2").render(
        report=report, sign=_SIGNS[report.status], kind=_kind, picture=_picture
    ) + "\n"  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tfslim.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["together"] = keep_together
    return environment


def _kind(block: object) -> str:
    """Return which part of the template shows a block."""
    if isinstance(block, Paragraph):
        return "paragraph"
    if isinstance(block, Table):
        return "table"
    return "facts" if isinstance(block, Facts) else "chart"


def _picture(chart: Chart) -> Markup:
    """Return a picture as part of the page.

    It holds shapes and numbers alone: `plots` draws text as outlines and leaves comments out.
    """
    return Markup(plots.inline_svg(chart))  # noqa: S704 (see above; tested with a hostile record)
