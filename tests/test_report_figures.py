"""The report's curves, worked out by hand, and its figures, held against plotly's own validators."""

import itertools
import json

import numpy as np
import plotly.graph_objects
import pytest
from matplotlib.figure import Figure
from report_runs import make_run, write_evaluation

from hvd_imagenet.report import arms, colours, curves, figures, plots, restarts, run
from hvd_imagenet.report.curves import Curve
from hvd_imagenet.report.png import _show_the_end, png

HOSTILE = "</script><img src=x onerror=alert(1)><b>%{x} {{7*7}} $\\alpha$ & &lt;\u2028"


def curve(epochs, values):
    return Curve(np.array(epochs, float), np.array(values, float))


def read(*folders, names=None):
    return arms.group(run.read(list(folders)), names)


def logged(folder, *events):
    """A run with these events."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return run.read([folder])[0]


def step(samples, top1, batch=10, size=100, **more):
    more = {"step": samples, "samples_seen": samples, "epoch": samples / size, "top1": top1, **more}
    return {"event": "step", "global_batch": batch, **more}


def evaluation(epoch, top1, **more):
    return {"event": "eval", "step": int(100 * epoch), "epoch": epoch, "top1": top1, **more}


# Curves


def test_mean_and_spread_over_runs_by_hand():
    over = curves.spread([curve([1, 2, 3], [10, 20, 30]), curve([1, 2], [14, 20]), curve([2, 3], [26, 34])])
    assert over.epochs.tolist() == [1, 2, 3] and over.runs.tolist() == [2, 3, 2]
    assert over.mean.tolist() == [12, 22, 32]
    np.testing.assert_allclose(over.std, [8**0.5, 12**0.5, 8**0.5])  # (4 + 4) / 1, (4 + 4 + 16) / 2
    alone = curves.spread([curve([1], [5])])
    assert alone.mean.tolist() == [5] and np.isnan(alone.std).all()


def test_training_error_is_the_evaluations_where_they_have_it(tmp_path):
    events = [
        step(50, 0.9),
        evaluation(1, 0.5),
        evaluation(2, 0.6, train_top1=0.75),
        evaluation(3, 0.6, train_top1=0.8),
    ]
    one = logged(tmp_path / "a", *events)
    (found,) = curves.training_errors([one])
    assert found.epochs.tolist() == [2, 3] and found.values.tolist() == pytest.approx([25, 20])
    both = curves.training_errors([one, logged(tmp_path / "b", step(100, 0.5))])
    assert [curve.values.tolist() for curve in both] == [pytest.approx([10]), [50]]  # in the same way for both


def test_training_error_is_else_that_of_the_epochs_steps(tmp_path):
    """Of 100 images: a step of 10 from 90 on is the first epoch's, one from 100 on the second's; one of 30 weighs 3."""
    events = [step(10, 0.2), step(100, 0.4), step(110, 0.5), step(140, 0.9, batch=30), step(200, 0.5), step(220, 0.1)]
    found = curves.of_epochs(logged(tmp_path / "a", *events))
    assert found.epochs.tolist() == [1, 2]  # the third is not over
    # (0.2 + 0.4) / 2 = 0.3; (0.5 * 10 + 0.9 * 30 + 0.5 * 10) / 50 = 0.74
    assert found.values.tolist() == pytest.approx([70, 26])
    found = curves.of_epochs(logged(tmp_path / "b", *events[:1]))
    assert found.epochs.tolist() == [0.1] and found.values.tolist() == pytest.approx([80])


def test_every_epoch_has_its_own_steps(tmp_path):
    """Ten each, also where 4100 / 1000 * (1 - 100 / 4100) comes to be less than 4."""
    events = [step(100 * n, ((n - 1) // 10) / 10, batch=100, size=1000) for n in range(1, 91)]
    found = curves.of_epochs(logged(tmp_path / "a", *events))
    assert found.epochs.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    np.testing.assert_allclose(found.values, [100, 90, 80, 70, 60, 50, 40, 30, 20], atol=1e-9)


@pytest.mark.filterwarnings("error")
def test_numbers_that_cannot_be_are_left_out(tmp_path):
    nothing = logged(tmp_path / "a", step(100, 0.5, batch=0), step(0, 0.5), step(-100, 0.5, epoch=1e-320))
    assert len(curves.of_epochs(nothing).epochs) == 0
    nothing.events.restarts.append({"step": 1, "samples_seen": 50, "time": None, "reason": None})
    assert restarts.restarts([arms.Arm("a", [nothing])])[0].epoch == 0.5  # 100 samples were an epoch


def test_the_last_epoch_of_a_run_that_is_done_may_be_a_part_of_one(tmp_path):
    logged(tmp_path / "a", step(100, 0.5), step(150, 0.6))
    (tmp_path / "a/result.json").write_text('{"val_top1": 0.5}')
    (found,) = curves.training_errors(run.read([tmp_path / "a"]))
    assert found.epochs.tolist() == [1, 1.5]


def test_long_curves_are_means_over_equal_stretches():
    short = [curve([1, 2, 4], [1, 2, 3]), curve([1], [5])]
    assert curves.thinned(short, points=3) is short
    one, other = curves.thinned([curve([0, 1, 2, 2.5, 4], [1, 3, 5, 7, 9]), curve([1], [5])], points=2)
    assert one.epochs.tolist() == [1, 3] and one.values.tolist() == [3, 8]  # of 1, 3, 5 up to 2; of 7, 9 after it
    assert other.epochs.tolist() == [1] and other.values.tolist() == [5]


def test_rates_are_shown_as_they_were():
    found = curves.sampled(curve(range(100), [0] * 50 + [1] * 50), points=11)
    assert found.epochs[0] == 0 and found.epochs[-1] == 99 and set(found.values) == {0, 1} and len(found.epochs) == 11
    assert len(curves.sampled(curve([], [])).epochs) == 0 and curves.sampled(curve([3], [1])).epochs.tolist() == [3]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0] * 74 + [0.01] * 26, True),
        ([1.0] * 75 + [0.01] * 25, False),
        ([1.0] * 50 + [0.06] * 50, False),
        ([1.0] * 50 + [0.0] * 50, False),
        ([], False),
    ],
)
def test_a_rate_that_falls_far_has_a_logarithmic_axis(values, expected):
    assert figures.wants_log([curve(range(len(values)), values)]) is expected


def test_restarts_are_told(tmp_path):
    events = [step(50, 0.5), {"event": "restart", "step": 7, "samples_seen": 150, "workers": 3, "time": "noon"}]
    events += [{"event": "restart", "step": 9, "workers": 4, "workers_before": 3, "reason": "the hosts have changed"}]
    first, second = restarts.restarts([arms.Arm("a", [logged(tmp_path / "a", *events)])])
    assert (first.epoch, second.epoch) == (1.5, None)
    assert first.told == "restart after step 7, on 3 workers, noon"
    assert second.told == "restart after step 9, 3 → 4 workers, the hosts have changed"


# Figures


@pytest.fixture
def everything(tmp_path):
    """Arms of one run and of two, one of them hostile; with restarts and evaluated classes."""
    happened = [{"step": 400, "workers": 6, "workers_before": 8, "reason": HOSTILE, "time": "now"}]
    folders = [
        make_run(tmp_path / "a", epochs=12, restarts=happened),
        make_run(tmp_path / "b", epochs=12, seed=1, batch=4096, split=False),
        make_run(tmp_path / "c", epochs=12, seed=2, batch=4096, until=7, status="running"),
    ]
    for folder in folders:
        write_evaluation(folder, [HOSTILE, "tench", *map(str, range(30))])
    return read(*folders, names=[HOSTILE, "two", "two"])


def leaves(value, key=""):
    """All values of nested data with the key that each stands under."""
    if isinstance(value, dict):
        return itertools.chain.from_iterable(leaves(one, name) for name, one in value.items())
    if isinstance(value, list):
        return itertools.chain.from_iterable(leaves(one, key) for one in value)
    return [(key, value)]


def in_colour(value, key=""):
    """As page.js does it."""
    if isinstance(value, dict):
        return {name: in_colour(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [in_colour(one) for one in value]
    light = colours.variables(colours.LIGHT, colours.ARMS_ON_LIGHT)
    return light[value] if key.endswith("color") and str(value).startswith("--") else value


def test_plotly_takes_every_figure(everything):
    made = figures.figures(everything, restarts.restarts(everything))
    names = ["error", "rate", "batch", "throughput", "time", "grad_norm", "weight_norm", "classes"]
    assert [one.name for one in made] == names
    for one in made:
        plot = in_colour(one.plot)
        checked = plotly.graph_objects.Figure(plot)
        assert len(checked.data) == len(plot["data"]) > 0
        json.dumps(one.plot, allow_nan=False)


def test_a_single_run_has_its_time_over_the_epochs(tmp_path):
    of = read(make_run(tmp_path / "a", epochs=6))
    plot = figures.time_split(of).plot
    assert [trace["type"] for trace in plot["data"]] == 3 * ["scatter"] and plot["data"][0]["stackgroup"]
    plotly.graph_objects.Figure(in_colour(plot))


def test_a_run_that_has_just_begun(tmp_path):
    """A single point is no line: what it is of must be seen from the point."""
    of = read(make_run(tmp_path / "a", epochs=1, lines_per_epoch=1))
    training, validation = figures.error(of, []).plot["data"]
    assert (training["marker"]["symbol"], validation["marker"]["symbol"]) == ("circle-open", "circle")
    bars = figures.time_split(of).plot["data"]
    assert [trace["type"] for trace in bars] == 3 * ["bar"]
    assert [trace["marker"]["color"] for trace in bars] == [*figures.PART_COLOURS.values()]


def test_what_is_not_logged_is_not_shown(tmp_path):
    of = read(logged(tmp_path / "a", step(50, 0.5), evaluation(1, 0.5)).path)
    assert [one.name for one in figures.figures(of, [])] == ["error", "batch"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/config.yaml").write_text("epochs: 3")
    assert figures.figures(read(tmp_path / "b"), []) == []


def test_no_text_is_markup(everything):
    """Plotly shows <b> and its like as markup, and puts values in for %{...} of templates alone."""
    seen = 0
    for one in figures.figures(everything, restarts.restarts(everything)):
        for key, value in leaves(one.plot):
            if not isinstance(value, str):
                continue
            if key == "hovertemplate":
                assert "img" not in value and "{{" not in value
            else:
                assert "<" not in value and ">" not in value and "\u2028" not in value
                seen += "&lt;/script" in value
    assert seen > 10


def test_colours_are_variables_of_the_page(everything):
    known = colours.variables(colours.LIGHT, colours.ARMS_ON_LIGHT)
    assert known.keys() == colours.variables(colours.DARK, colours.ARMS_ON_DARK).keys()
    for one in figures.figures(everything, restarts.restarts(everything)):
        for key, value in leaves(one.plot):
            assert not key.endswith("color") or value in known, (key, value)


def test_an_arm_of_several_runs_is_a_mean_in_a_band_or_each_run(everything):
    data = figures.error(everything, []).plot["data"]
    assert {(trace["meta"]["arm"], trace["meta"]["level"]) for trace in data} == {(0, None), (1, "arm"), (1, "run")}
    band = next(trace for trace in data if trace.get("fill") == "toself")
    mean = next(t for t in data if t["meta"] == {"arm": 1, "level": "arm"} and "customdata" in t)
    twice, runs = mean["customdata"][0]
    assert runs == 2 and mean["customdata"][-1] == [None, 1]  # the other run has not come that far
    assert band["y"][0] == pytest.approx(mean["y"][0] + twice, rel=1e-4)
    assert band["y"][-1] == pytest.approx(mean["y"][0] - twice, rel=1e-4)
    assert band["x"] == mean["x"][:6] + mean["x"][:6][::-1]  # of the training errors: its seventh epoch is not over


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("x" * 48, "x" * 48),
        ("x" * 49, "x" * 47 + "…"),
        ("&" * 50, "&amp;" * 47 + "…"),
    ],
)
def test_texts(words, shown):
    assert plots.text(words) == shown


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["1234567890", "x"], ["1234567890", "x"]),
        (["12345678901", "x"], ["123456789…", "x"]),
        (["batch 8192, none", "batch 8192, long"], ["batch…none", "batch…long"]),
        (["batch 8192, none", "batch 8192, none"], ["batch 819…", "batch 819…"]),
        ([], []),
    ],
)
def test_long_names_stay_apart(names, shown):
    assert plots.apart(names, 10) == shown


def test_numbers():
    assert plots.numbers([1 / 3, float("nan"), float("inf"), 123456789, 0]) == [0.33333, None, None, 123460000, 0]


@pytest.mark.parametrize(("count", "inches"), [(6, 6.4), (30, 6.4), (50, 10.1)])
def test_the_still_picture_has_room_for_its_legend(everything, count, inches):
    """A line of it takes 28 of the 150 points of an inch."""
    picture = png([arms.Arm(str(n), everything[0].runs) for n in range(count)], "us")
    height = int.from_bytes(picture[20:24])
    assert height == pytest.approx(150 * inches, abs=1) and height >= 28 * count


@pytest.mark.filterwarnings("error")
def test_the_still_picture_takes_any_name(everything):
    """matplotlib takes what is between $ for mathematics, leaves out what begins with _, and lacks some characters."""
    names = [HOSTILE, "_hidden $\\frac{", "日本 🎉", "", *map(str, range(5))]
    for count in (1, len(names)):
        picture = png([arms.Arm(name, everything[n % 2].runs) for n, name in enumerate(names[:count])], "us")
        assert picture.startswith(b"\x89PNG") and len(picture) > 20_000 and b"Software\x00us" in picture


@pytest.mark.parametrize(
    ("errors", "ticks"),
    [([64, 8], None), ([65, 8], ["10", "20", "50"]), ([100, 0.0, 1.5], ["2", "5", "10", "20", "50", "100"])],
)
def test_the_still_picture_shows_the_end_of_a_long_fall(errors, ticks):
    """More than 8 times as large as the least that is not 0."""
    axes = Figure().subplots()
    axes.plot(errors)
    _show_the_end(axes)
    assert axes.get_yscale() == ("log" if ticks else "linear")
    assert ticks is None or [label.get_text() for label in axes.get_yticklabels()] == ticks
