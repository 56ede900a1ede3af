"""The report in a browser: drawn in every width and theme, asking for nothing, its texts no more than texts."""

import json
from pathlib import Path

import pytest
from browser import Opened, chromium
from report_runs import make_run, write_evaluation

from hvd_imagenet import report
from hvd_imagenet.report import colours

HOSTILE = [
    "<b>bold</b>",
    "<img src=x onerror=alert(1)>",
    "<a href='javascript:alert(1)'>h</a>",
    "</script><script>alert(1)</script>",
    "%{x} {{7*7}} $\\alpha$",
    "'\" onmouseover=alert(1) x='",
]
FIGURES = ["error", "rate", "batch", "throughput", "time", "grad_norm", "weight_norm", "classes"]
WIDTHS = [390, 1400]
THEMES = {"light": (colours.LIGHT, colours.ARMS_ON_LIGHT), "dark": (colours.DARK, colours.ARMS_ON_DARK)}


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A report on six arms, one of two runs, all of whose texts are hostile."""
    root = tmp_path_factory.mktemp("runs")
    folders = []
    for number, text in enumerate([*HOSTILE, HOSTILE[0]]):
        happened = [{"step": 300, "workers": 3, "workers_before": 4, "reason": text, "time": text}]
        how = {"model.name": text, "optimizer.momentum": text * 9, "restarts": happened}
        folder = make_run(root / text.replace("/", "∕") / f"seed-{number}", epochs=8, seed=number, **how)
        write_evaluation(folder, HOSTILE, number)
        folders.append(folder)
    report.write(folders, root / "report <i>#1?.html", title=HOSTILE[1], names=[*HOSTILE, HOSTILE[0]])
    return root / "report <i>#1?.html"


@pytest.fixture
def opened(browser, file):
    with Opened(browser, file) as page:
        page.page.wait_for_selector("html[data-drawn]")
        yield page


def rgb(colour):
    return f"rgb({', '.join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))})"


def drawn(page):
    """Of each figure: how many traces are in the picture, and how many it has that are to be seen."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll("[data-plot]")].map((place) => [
            place.dataset.plot,
            [place.querySelectorAll(".main-svg .trace").length, place.data.filter((trace) => trace.visible).length],
        ]))"""
    )


def arm_colour(page, figure, arm):
    """Of an arm's line, as it is on the screen."""
    return page.evaluate(
        """([figure, arm]) => {
            const place = document.getElementById(`plot-${figure}`);
            const number = place.data.findIndex((trace) => trace.meta.arm === arm && trace.visible && !trace.fill);
            const traces = [...place.querySelectorAll(".scatterlayer .trace")];
            const seen = traces.find((one) => one.__data__[0].trace.index === number);
            return getComputedStyle(seen.querySelector(".js-line")).stroke;
        }""",
        [figure, arm],
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
def test_every_figure_is_drawn_and_nothing_is_asked_for(browser, file, width, theme):
    with Opened(browser, file, width, theme) as opened:
        page = opened.page
        page.wait_for_selector("html[data-drawn]")
        assert opened.said == [] and opened.requests == []
        counts = drawn(page)
        assert list(counts) == FIGURES and all(inside == of > 0 for inside, of in counts.values())
        own, arms = THEMES[theme]
        assert arm_colour(page, "error", 1) == rgb(arms[1])
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == rgb(own["page"])
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = page.evaluate(
            """() => [...document.querySelectorAll(".card")].flatMap((card) => {
                const right = card.getBoundingClientRect().right + 1;
                return [...card.querySelectorAll("h2, figcaption, .plot, .main-svg, .key, caption span, summary")]
                    .filter((one) => one.getBoundingClientRect().right > right)
                    .map((one) => one.outerHTML.slice(0, 99));
            })"""
        )
        assert outside == []
        overlong = page.evaluate(  # text that runs out of its cell
            """() => [...document.querySelectorAll("td, th")]
                .filter((cell) => cell.scrollWidth > cell.clientWidth + 1).length"""
        )
        assert overlong == 0


def test_a_finger_on_a_figure_scrolls_the_page(browser, file):
    with Opened(browser, file, 390) as opened:
        page = opened.page
        page.wait_for_selector("html[data-drawn]")
        page.locator("#plot-rate").scroll_into_view_if_needed()
        place, before = page.locator("#plot-rate").bounding_box(), page.evaluate("scrollY")
        finger = page.context.new_cdp_session(page)
        x, y = place["x"] + 150, place["y"] + 150
        finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for moved in range(10, 160, 10):
            finger.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x, "y": y - moved}]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_function(f"scrollY > {before} + 100")
        assert page.evaluate("document.getElementById('plot-rate').layout.xaxis.range[1]") > 7


def test_the_theme_can_be_changed_and_follows_the_system(opened):
    page = opened.page
    assert arm_colour(page, "error", 2) == rgb(colours.ARMS_ON_LIGHT[2])
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"getComputedStyle(document.body).backgroundColor === '{rgb(colours.DARK['page'])}'")
    wait_for_colour(page, rgb(colours.ARMS_ON_DARK[2]))
    page.get_by_role("button", name="Change between light and dark").press("Enter")
    wait_for_colour(page, rgb(colours.ARMS_ON_LIGHT[2]))
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Change between light and dark").click()
    wait_for_colour(page, rgb(colours.ARMS_ON_DARK[2]))
    assert opened.said == []


def wait_for_colour(page, expected):
    for _ in range(100):
        if (found := arm_colour(page, "error", 2)) == expected:
            return
        page.wait_for_timeout(100)
    assert found == expected


def test_arms_can_be_hidden_and_runs_shown_one_by_one(opened):
    page = opened.page
    before = drawn(page)["error"][0]
    first = page.locator("[data-arm='1']")
    first.press("Space")
    page.wait_for_function("document.querySelectorAll('#plot-error .trace').length < " + str(before))
    assert first.get_attribute("aria-pressed") == "false"
    assert drawn(page)["error"] == [before - 3, before - 3]  # training, validation, restart
    first.press("Space")
    page.get_by_role("button", name="each run").click()  # of the arm with two: for two means in bands, four lines
    page.wait_for_function(f"document.querySelectorAll('#plot-error .trace').length === {before}")
    fills = page.evaluate("document.getElementById('plot-error').data.filter((t) => t.visible && t.fill).length")
    assert fills == 0 and all(inside == of > 0 for inside, of in drawn(page).values()) and opened.said == []


def test_figures_over_the_epochs_are_zoomed_together(opened):
    page = opened.page
    page.evaluate("Plotly.relayout('plot-error', {'xaxis.range[0]': 2, 'xaxis.range[1]': 5})")
    for other in ("rate", "throughput", "weight_norm"):
        page.wait_for_function(f"document.getElementById('plot-{other}').layout.xaxis.range?.join() === '2,5'")
    assert page.evaluate("document.getElementById('plot-time').layout.xaxis.range?.join()") != "2,5"
    page.get_by_role("button", name="each run").click()  # what is zoomed into stays
    page.wait_for_function("document.getElementById('plot-error').layout.xaxis.range.join() === '2,5'")
    page.evaluate("Plotly.relayout('plot-rate', {'xaxis.autorange': true})")
    page.wait_for_function("document.getElementById('plot-error').layout.xaxis.range[1] > 7")
    assert opened.said == []


def test_texts_in_figures_are_shown_as_they_are(opened):
    page = opened.page
    texts = page.locator("#plot-classes .ytick text").all_text_contents()
    assert sorted(texts) == sorted(text if len(text) <= 32 else f"{text[:31]}…" for text in HOSTILE)
    hovered = {figure: hover(page, figure) for figure in FIGURES}
    shown = page.evaluate("document.querySelectorAll('.plot svg a, .plot svg image, main img, iframe, b, i').length")
    assert shown == 0 and opened.said == [] and opened.requests == []
    for text in HOSTILE:
        assert any(words.startswith(f"{text}epoch ") for words in hovered["error"]), text
        assert any(words.startswith(f"{text}waiting for data ") for words in hovered["time"]), text
        assert any(text in words for words in hovered["classes"]), text
        assert any(f"4 → 3 workers, {text}, {text}" in words for words in hovered["throughput"]), text


def hover(page, figure):
    """The words that appear where traces are pointed at, each at another point; Plotly takes 50 ms for one."""
    return page.evaluate(
        """async (figure) => {
            const place = document.getElementById(`plot-${figure}`);
            const words = [];
            for (const [number, trace] of place.data.entries()) {
                if (!trace.visible || trace.fill) continue;
                Plotly.Fx.hover(place, [{ curveNumber: number, pointNumber: number % trace.x.length }]);
                await new Promise((resolve) => setTimeout(resolve, 60));
                words.push(place.querySelector(".hoverlayer").textContent);
            }
            return words;
        }""",
        figure,
    )


def test_the_policy_stops_what_would_get_in(opened):
    """Even if a text came to be more than a text."""
    page = opened.page
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.wasRun = true";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<img src='x' onerror='window.wasRun = true'>");
        }"""
    )
    failed = page.evaluate("fetch('http://127.0.0.1:9/').then(() => false, () => true)")
    assert failed and page.evaluate("window.wasRun") is None
    assert any("Content Security Policy" in line for line in opened.said)


def test_no_button_sends_a_figure_away(opened):
    names = opened.page.evaluate(
        "[...new Set([...document.querySelectorAll('.modebar-btn')].map((button) => button.dataset.title))]"
    )
    assert len(names) == 6 and not any(word in json.dumps(names) for word in ("hare", "loud", "dit"))
    with opened.page.expect_download() as download:
        opened.page.hover("#plot-error")
        opened.page.locator("#plot-error .modebar-btn").first.click()
    assert download.value.suggested_filename.endswith(".png") and opened.requests == []


def test_all_of_it_can_be_reached_by_the_keyboard_and_is_named(opened):
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("[role=img], [role=region], [role=group], button, figure, section")]
            .filter((one) => !one.closest(".modebar"))
            .filter((one) => !(one.ariaLabel || one.textContent.trim()
                || document.getElementById(one.getAttribute("aria-labelledby"))?.textContent)).length"""
    )
    scrolled = page.evaluate(
        """() => [...document.querySelectorAll("*")].filter((one) => one.scrollWidth > one.clientWidth + 1
            && ["auto", "scroll"].includes(getComputedStyle(one).overflowX) && one.tabIndex < 0
            && !one.querySelector("button")).length"""
    )
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((one) => one.tagName)")
    assert unnamed == 0 and scrolled == 0 and levels[0] == "H1" and set(levels[1:]) == {"H2"}
