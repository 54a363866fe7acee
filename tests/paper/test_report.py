"""The report: its numbers are the run's, it needs nothing from outside, and what is missing is named."""

import html
import re
import shlex

import numpy as np

from cbir_utils.paper import report
from cbir_utils.paper.evidence import UNKNOWN
from cbir_utils.run import Run
from cbir_utils.runner import cli


def page(run):
    return report.write_report(run)[0].read_text()


def text(run):
    """What a reader of the page sees, as one line."""
    body = re.sub(r"<style>.*?</style>|<pre>.*?</pre>", "", page(run), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_command_writes_a_page_that_needs_nothing_from_outside(run, capsys):
    with run.writing("figures/figure_08_hits.png") as path:
        path.write_bytes(b"\x89PNG stand-in")
    assert cli.main(["report", "--results", str(run.folder)]) == 0
    assert re.fullmatch(r"Of the paper's claims, .*\n.*report/index.html\n", capsys.readouterr().out)
    said, opened = run.path("report/index.html").read_text(), []
    tags = re.findall(r"<(/?)([a-z]\w*)", said)
    for closing, tag in tags:
        if closing:
            assert opened.pop() == tag
        elif tag not in ("meta", "link", "img"):
            opened.append(tag)
    assert not opened and ("", "script") not in tags and tags.count(("", "img")) == 1
    ids, addresses = re.findall(r' id="(.*?)"', said), re.findall(r' (?:src|href)="(.*?)"', said)
    assert all(address.startswith("data:") or address[1:] in ids for address in addresses)
    assert len(ids) == 9 and 'name="viewport"' in said and "url(" not in said


def test_one_number_changed_in_the_artifacts_is_changed_in_the_report(run):
    rows, before = run.load_json("metrics.json"), page(run)
    assert f"{rows[-1]['mAP']:.3f} [" in before and "0.123 [" not in before
    rows[-1]["mAP"] = 0.123
    run.save_json("metrics.json", rows)
    after = page(run)
    assert "0.123 [" in after
    assert len(set(before.splitlines()) ^ set(after.splitlines())) <= 4  # that cell, and when the run was changed
    rows[0]["method"] = "<b>bold</b>"  # what comes from the artifacts is escaped
    run.save_json("metrics.json", rows)
    after = page(run)
    assert "&lt;b&gt;bold" in after and "<b>" not in after

    path = run.path("metrics.json")  # behind the manifest's back
    path.write_text(path.read_text().replace("12.5", "99.5"))
    said = text(run)
    assert "99.5" not in said and "metrics.json differs from its hash" in said


def test_where_everything_is_missing_each_part_says_which_command_makes_it(tmp_path, digits):
    run = Run("digits", tmp_path)
    run.same_data(digits.content_hash)
    _, findings = report.write_report(run)
    verdicts = [found.verdict for found in [*findings["claims"], *findings["figures"]]]
    assert verdicts.count(UNKNOWN) == len(verdicts) - 2  # the source's arguments; the data themselves (figure 6)
    assert list(map(len, findings.values())) == [7, 8, 3]
    lines = report.verdict_table(findings).splitlines()
    assert len(lines) == 2 + 7 + 8 + 3 and all("**" in line for line in lines[2:])
    assert report.summary(findings) == "Of the paper's claims, 1 holds, 6 not measured yet."
    commands = re.findall(r"<code>python -m cbir_utils ([^<]+)</code>", page(run))
    assert len(commands) > 10
    for command in commands:
        assert cli.parser().parse_args(shlex.split(html.unescape(command))).command


def test_the_table_has_interval_seeds_seconds_and_bytes(run, digits):
    few = np.linspace(0, 1, 40)
    trainings = [{"P@1": few, "AP": few**power} for power in (1, 2, 3, 4, 5)]
    row = run.score("fused", trainings, digits, distance="cosine", train_seconds=1234.5)
    low, high = row["mAP_interval"]
    said = text(run)
    worst, best = (few**5).mean(), few.mean()
    assert f"fused, cosine {row['mAP']:.3f} [{low:.3f}, {high:.3f}]" in said
    assert f"– – – 5 ({worst:.3f} to {best:.3f}) 1,234 40 " in said
    assert f"different seeds: fused (cosine) {best - worst:.4f} over 5 seeds." in said
    assert re.search(r"pixels, cosine [\d. \[\],]+ 1 12 3,136 ", said)
    assert "Left out: hog (hog/codes_database.npy does not exist yet; make it anew with python -m cbir_utils" in said


def test_other_threads_are_reported_beside_the_first(run):
    assert "sensitivity.json is missing or damaged; python -m cbir_utils measure machines" in text(run)
    measured = (("all", 0.5, "a"), ("again", 0.5, "a"), ("one core", 0.5125, "b"))
    rows = [{"name": name, "P@1": 0.9, "P@5": 0.8, "mAP": value, "weights": w} for name, value, w in measured]
    run.save_json("sensitivity.json", {"settings": {"dataset": "digits", "cores": 4}, "rows": rows})
    said = text(run)
    assert "at most 0.0000 in P@1, 0.0000 in P@5 and 0.0125 in mAP" in said
    assert "again 0.9000 0.8000 0.5000 +0.0000 the first's one core 0.9000 0.8000 0.5125 +0.0125 others" in said


def test_provenance_names_data_versions_and_parameters_and_no_folder_of_the_machine(run, digits):
    run.record(parameters={"02_train_autoencoder": {"epochs": 3, "results": "/somewhere", "dataset": "digits"}})
    run.record(steps={"02_train_autoencoder": {"commit": "a" * 40 + " with changes"}})
    said = text(run)
    assert digits.content_hash in said and f"numpy {np.__version__}" in said and "360 queries against a" in said
    assert f"02_train_autoencoder – {'a' * 10} with changes epochs = 3" in said and "/somewhere" not in said
