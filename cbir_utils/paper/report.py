"""The report on the paper: what a run's artifacts say about its claims, figures and equations, as one HTML page.

Every number in it is read from the run when the report is written. What is missing is named, with the command that
makes it. The page's text and style are in ``report.html.j2``, the sentences of its findings in ``sentences.j2``.
"""

import base64
import inspect
import re
from collections import Counter
from pathlib import Path

from markupsafe import Markup, escape

from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.lessons.tables import markdown_table
from cbir_utils.paper.claims import claims, paired_tests
from cbir_utils.paper.commit import current_commit
from cbir_utils.paper.evidence import FAILS, HOLDS, IN_PART, ROOT, TEMPLATES, UNKNOWN, Evidence
from cbir_utils.paper.figures import equations, figures


def write_report(run):
    """Write ``report/index.html``; returns its path and the findings, ``{"claims": [...], "figures", "equations"}``."""
    evidence = Evidence(run)
    findings = {"claims": claims(evidence), "figures": figures(evidence), "equations": equations(evidence)}
    page = TEMPLATES.get_template("report.html.j2").render(
        **findings,
        evidence=evidence,
        summary=summary(findings),
        methods=_or_error(lambda: sorted(evidence.rows.values(), key=lambda row: -row["mAP"])),
        tests=_or_error(lambda: paired_tests(evidence)),
        sensitivity=_or_error(lambda: evidence.measured("machines", "sensitivity.json")),
        commit=current_commit(),
    )
    with run.writing("report/index.html") as partial:
        partial.write_text(page, encoding="utf-8")
    return run.path("report/index.html"), findings


def summary(findings):
    """How many of the claims hold, hold in part, do not hold, or are not measured: one sentence."""
    counts = Counter(finding.verdict for finding in findings["claims"])
    several = {HOLDS: "hold", IN_PART: "hold in part", FAILS: "do not hold", UNKNOWN: UNKNOWN}
    said = [f"{counts[v]} {v if counts[v] == 1 else several[v]}" for v in several if counts[v]]
    return f"Of the paper's claims, {', '.join(said)}."


def verdict_table(findings):
    """The verdicts on claims, figures and equations as a Markdown table."""
    lines = [[finding.title, f"**{finding.verdict}**"] for these in findings.values() for finding in these]
    return markdown_table(["of the paper", "verdict"], lines)


def _or_error(make):
    """What ``make`` returns, or the :class:`ArtifactError` that it raises."""
    try:
        return make()
    except ArtifactError as error:
        return error


def _with_code(text):
    """Text as HTML, with what stands between backquotes as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _data_url(path):
    """A PNG file as a ``data:`` address."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _source(thing):
    """Where a function or class stands, and its source."""
    file, (lines, first) = Path(inspect.getsourcefile(thing)).relative_to(ROOT), inspect.getsourcelines(thing)
    return f"{file.as_posix()}, line {first}: {thing.__qualname__}", "".join(lines).rstrip()


TEMPLATES.filters |= {"code": _with_code, "data_url": _data_url, "source": _source}
TEMPLATES.tests["missing"] = lambda value: isinstance(value, ArtifactError)
