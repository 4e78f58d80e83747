"""What ``script/bench`` writes: pure functions of recorded results."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from script.benchmarks import NAMES, load, one, plot, report, sampling, words
from tests.support.imports import CHECKOUT

FOLDER = CHECKOUT / "docs" / "performance"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def results():
    return json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


def figure(median, low=None, high=None):
    return {"median": median, "quartiles": [low or median, high or median]}


def test_the_page_and_the_plots_say_what_the_results_say(results):
    written = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert written == report.page(results), "run `script/bench --page`"
    drawn = report.plots(results)
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.svg")} == drawn


def test_every_plot_stands_on_the_page_and_every_picture_on_the_page_is_a_plot(results):
    assert set(re.findall(r"!\[[^]]+\]\(([^)]+)\)", report.page(results))) == set(report.plots(results))


def test_a_measurement_that_failed_is_on_the_page_and_the_others_keep_their_figures(results):
    name, other = list(results)[:2]
    failed = {**results, name: {"about": results[name]["about"], "failed": "RuntimeError: the wiki was away"}}

    page = report.page(failed)
    assert f"- **{name}** failed: RuntimeError: the wiki was away" in page
    assert load(name).TITLE not in page
    assert f"## {load(other).TITLE}" in page


def test_what_was_never_measured_is_said(results):
    kept = {name: results[name] for name in list(results)[:1]}
    page = report.page(kept)
    assert all(f"- {name}: not measured" in page for name in NAMES if name not in kept)
    assert "run `script/bench`" in report.page({})


@pytest.mark.parametrize(("before", "after", "said"), [(3, 5, False), (90, 5, True), (3, 90, True)])
def test_a_machine_with_other_work_is_said_to_have_had_it(results, before, after, said):
    name = next(iter(results))
    meta = {**results[name]["about"], "others_before": before, "others_after": after}
    page = report.page({name: {**results[name], "about": meta}})
    assert ("The machine had other work" in page) is said


def test_an_aim_that_is_missed_is_not_met():
    assert words.verdict(1.25, 1.25) == "met: 1.25"
    assert words.verdict(1.26, 1.25) == "**missed**: 1.26"
    both = {"wall": figure(3), "cpu": figure(1)}
    assert words.verdict_of_both(both, 4, "", False).startswith("met")
    assert words.verdict_of_both(both, 2, "", False).startswith("**missed by the clock, met in CPU time**")
    assert words.verdict_of_both(both, 0.5, "", True).startswith("**missed**")


def test_a_ratio_is_taken_within_each_round():
    # The second round was slow for both. Medians of all against medians of all would say something else.
    ours = [{"wall": 2, "cpu": 2}, {"wall": 40, "cpu": 40}, {"wall": 2, "cpu": 2}, {"wall": 40, "cpu": 40}]
    floor = [{"wall": 1, "cpu": 1}, {"wall": 20, "cpu": 20}, {"wall": 1, "cpu": 1}, {"wall": 20, "cpu": 20}]
    assert sampling.ratio(ours, floor)["wall"] == {"median": 2, "quartiles": [2, 2], "range": [2, 2], "runs": 4}
    assert sampling.total(ours, floor)[1] == {"wall": 60, "cpu": 60}


def test_what_takes_comes_before_what_gives_back_in_every_order_of_chance():
    orders = {tuple(sampling.shuffled("abcd", before="da")) for _ in range(300)}
    assert all(order.index("d") < order.index("a") for order in orders)
    assert len(orders) == 12


def test_a_measurement_that_raises_leaves_a_line_of_why(tmp_path, monkeypatch, capsys):
    class Broken:
        @staticmethod
        def run(_bench):
            raise RuntimeError("the wiki was away\nand more of it")

    monkeypatch.setattr(one, "load", lambda _name: Broken)
    monkeypatch.setattr(one.signal, "signal", lambda *_: None)
    assert one.main("imports", tmp_path) == 1
    assert json.loads((tmp_path / "answer.json").read_text()) == {"failed": "RuntimeError: the wiki was away"}
    assert "Traceback" in capsys.readouterr().err


SERIES = {"slow": [(1, figure(1, 0.8, 1.5)), (50, figure(9))], "fast": [(1, figure(1)), (50, figure(8.9))]}


def test_a_plot_is_one_well_formed_picture_and_always_the_same():
    drawn = plot.curves("Asking <all> & more", SERIES, "minions", "seconds", aim=(5, "aim: 5"))
    assert drawn == plot.curves("Asking <all> & more", SERIES, "minions", "seconds", aim=(5, "aim: 5"))
    tree = ET.fromstring(drawn)
    texts = [text.text for text in tree.iter(f"{SVG}text")]
    assert {"Asking <all> & more", "slow", "fast", "minions", "seconds", "aim: 5", "1", "50", "10"} <= set(texts)
    assert tree.find(f"{SVG}rect") is None  # no background, for light and dark pages


def test_a_higher_value_stands_higher_and_no_label_lies_on_another():
    tree = ET.fromstring(plot.curves("t", SERIES, "x", "y", log_y=True))
    points = [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in tree.iter(f"{SVG}polyline")
    ]
    for (x1, y1), (x2, y2) in points:
        assert x1 < x2
        assert y1 > y2
    ends = sorted(float(text.get("y")) for text in tree.iter(f"{SVG}text") if text.text in SERIES)
    assert ends[1] - ends[0] >= 15


def test_dots_have_their_whiskers_and_their_aim_in_the_picture():
    tree = ET.fromstring(
        plot.dots("t", [("one", figure(1, 0.9, 1.2)), ("two", figure(2))], "times", aim=(3, "aim: 3"))
    )
    places = [float(dot.get("cx")) for dot in tree.iter(f"{SVG}circle")]
    assert places[0] < places[1]
    aim = next(line for line in tree.iter(f"{SVG}line") if line.get("stroke-dasharray"))
    assert places[1] < float(aim.get("x1")) <= plot.WIDTH
    words = next(text for text in tree.iter(f"{SVG}text") if text.text == "aim: 3")
    # At the edge, its middle would put half of the words outside.
    assert (words.get("text-anchor"), words.get("x")) == ("end", aim.get("x1"))
