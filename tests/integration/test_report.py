"""The report as text, and in a browser without network."""

import base64
import csv
import json
import re
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import archive_fakes as fakes
import numpy as np
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo.archive.format import LayerRow
from onnxinfo.archive.sanity import SanityCard
from onnxinfo.cli import cli
from onnxinfo.views.report.graph import graph_layout, model_edges
from onnxinfo.views.style import number_text

HOSTILE = "<script>document.title = 'taken'</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    archive = folder / "a.h5"
    described = fakes.schema(
        metrics=(fakes.SID, fakes.GRADIENT),
        predicted=np.array([7, 8, -1, 7, 7, 7]),
        probability=np.array([0.5, 0.875, np.nan, 1, 1, 1]),
    )
    layers = [LayerRow.of(row) for row in described.layers]
    layers[1] = replace(layers[1], name=HOSTILE)
    for name in ("first", "second"):
        fakes.make(archive, name, replace(described, layers=layers))
    result = CliRunner().invoke(cli, ["report", str(archive), "-o", str(folder / "r.html")], catch_exceptions=False)
    assert result.exit_code == 0
    return folder / "r.html"


@pytest.fixture(scope="module")
def browser(page):
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.get(page.as_uri())
    end = time.monotonic() + 60
    while found.execute_script("return document.documentElement.dataset.ready") != "yes":
        assert time.monotonic() < end, found.get_log("browser")
        time.sleep(0.2)
    yield found
    found.quit()


@pytest.fixture
def screen(browser):
    """A browser whose screen can be changed; it is restored afterwards."""
    browser.execute_script("delete document.documentElement.dataset.theme")
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def shown_color(browser, selector="body"):
    """Brightness of an element's background, 0 to 255."""
    script = "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor"
    return max(map(float, re.findall(r"[\d.]+", browser.execute_script(script, selector))[:3]))


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def test_the_file_is_complete_in_itself(page):
    text = page.read_text()
    assert len(text) < 1_000_000
    own = text[: text.index('<script type="application/json"')]
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", own)
    assert HOSTILE not in text
    assert "alpha" in own
    assert "cells unproven" in own


def test_each_sample_has_its_prediction(page):
    """The page lists name, label and prediction of every sample, also without its script and for runs without maps."""
    first = page.read_text().split('<table class="predictions">')[1].split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in first.split("<tr>")[1:]]
    assert rows[0] == ["sample", "label", "prediction"]
    assert rows[2] == ["sample 1.png", "1", "class 8 (0.88)"]
    assert rows[3] == ["sample 2.png", "2", "scores not finite"]
    assert len(rows) == 1 + fakes.SAMPLES


def test_runs_without_predictions_have_no_table_of_them(tmp_path):
    archive = fakes.make(tmp_path / "a.h5", described=fakes.table_schema(metrics=(fakes.CONCENTRATION,)))
    assert 'class="predictions"' not in onnxinfo.report(archive, tmp_path / "r.html").read_text()


def test_runs_of_one_name_all_have_their_archive(tmp_path):
    paths = [fakes.make(tmp_path / f"{name}.h5", "same") for name in "ab"]
    onnxinfo.report(paths, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "<title>onnxinfo: same (a.h5), same (b.h5)</title>" in text
    assert "<h1>same (a.h5), same (b.h5)</h1>" in text


def test_a_run_of_sid_without_maps(tmp_path):
    archives = [
        fakes.make(tmp_path / f"{has_map}.h5", described=fakes.schema(metrics=(replace(fakes.SID, has_map=has_map),)))
        for has_map in (False, True)
    ]
    pages = [onnxinfo.report(each, tmp_path / "r.html").read_text() for each in archives]
    data = (re.search(r'<script type="application/json" id="data">(.*?)</script>', each)[1] for each in pages)
    without, with_maps = (json.loads(each)["runs"][0] for each in data)
    assert without["gallery"] is None
    assert with_maps["gallery"]["maps"]
    assert without["metrics"] == with_maps["metrics"]


def test_settings_have_their_own_names(page):
    """The recipe is shown under the names that options and arguments have, and without what is not set."""
    details = page.read_text().split('id="details"')[1]
    rows = dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', details))
    assert rows["share_sigma"] == "unit"
    assert rows["mean"] == "0.5, 0.4"
    assert "tie" not in rows
    assert "sigma_max" not in rows


def test_it_loads_without_errors_or_requests(browser, page):
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} <= {page.as_uri()}


def test_a_name_that_is_markup_stays_text(browser):
    assert browser.title.startswith("onnxinfo")
    assert any(HOSTILE in each.get_attribute("aria-label") for each in find(browser, ".node"))
    assert HOSTILE in browser.find_element("css selector", "#numbers tbody").text


def test_the_headline_comes_first(browser):
    """Key figures and the curve are on the first screen; settings are folded."""
    browser.execute_script("scrollTo(0, 0)")
    for selector in (".headline .figures", ".headline .sentences"):
        assert find(browser, selector)[0].rect["y"] < 600
    figures = find(browser, ".headline .figures")[0].text.split()
    assert figures[figures.index("proven") + 1] == "95%"
    assert not any(each.get_attribute("open") for each in find(browser, "#details details"))


def test_runs_are_toggled(browser):
    lines = "#curve .line"
    before = len(find(browser, lines))
    box = find(browser, "#toggles input")[1]
    box.click()
    assert len(find(browser, lines)) < before
    box.click()
    assert len(find(browser, lines)) == before


def test_the_curve_has_floor_errors_and_hollow_marks(browser):
    assert "floor of a linear layer" in find(browser, "#curve")[0].get_attribute("textContent")
    assert len(find(browser, "#curve .error")) == 2
    hollow = [each.get_attribute("fill") for each in find(browser, "#curve .mark")].count("var(--card)")
    assert hollow == 2
    assert "hollow" in browser.find_element("id", "curve-legend").text


def test_bands_of_the_samples_do_not_cover_each_other(browser):
    """Several runs have their lines and errors, each named in the legend; one alone has the band of its samples."""
    legend = browser.find_element("id", "curve-legend")
    assert find(browser, "#curve .spread") == []
    assert "80%" not in legend.text
    lines = [each.get_attribute("stroke") for each in find(browser, "#curve-legend .line")]
    assert len(set(lines)) == 2
    assert lines == [each.get_attribute("stroke") for each in find(browser, "#curve .line")]
    box = find(browser, "#toggles input")[1]
    box.click()
    assert len(find(browser, "#curve .spread")) == 1
    assert "80% of the samples" in legend.text
    assert find(browser, "#curve-legend .line") == []
    box.click()


def test_a_single_runs_curve_is_as_tall_as_its_headline(browser, page, tmp_path):
    """Slanted names take their height from no curve, and sentences name layers as the curve does."""
    rows = [LayerRow(f"/net/block{i}/Relu_output_0", i, "Relu", f"relu_{i}", i, 1, "16") for i in range(12)]
    archive = fakes.make(tmp_path / "a.h5", described=fakes.schema(layers=rows, metrics=(fakes.SID,)))
    with visit(browser, onnxinfo.report(archive, tmp_path / "r.html"), page):
        card, headline = browser.find_element("id", "curves"), find(browser, ".headline")[0]
        assert abs(card.rect["y"] - headline.rect["y"]) < 2
        assert abs(card.rect["height"] - headline.rect["height"]) < 2
        content = find(browser, ".headline > :last-child")[0].rect
        below = card.rect["y"] + card.rect["height"] - (content["y"] + content["height"])
        assert 0 < below < 60  # the curve does not make the row taller than what the headline says
        assert browser.find_element("id", "curve").rect["height"] > 300
        said = " ".join(each.get_attribute("textContent") for each in find(browser, ".sentences li"))
        assert "block" in said
        assert "/net/" not in said


def test_differences_name_the_runs(browser):
    headings = [each.text for each in find(browser, "#comparison thead th")]
    assert headings[2:4] == ["first", "second"]
    assert headings[5:7] == ["95% low", "95% high"]


def test_sentences_do_not_repeat_the_headline(page, tmp_path):
    """Numbers have minus signs; the accuracy is a key figure and no sentence."""
    text = page.read_text()
    said = re.findall(r"<ul class=\"sentences\">(.*?)</ul>", text, re.DOTALL)
    assert re.search(r"between \u2212\d\.\d+ ", said[0])
    assert not re.search(r"[ (]-\d", "".join(said))
    card = SanityCard("x", 6, {}, classes=3, labeled=6, accuracy=5 / 6)
    predicted = {"predicted": np.array([0, 1, 2, 0, 1, 0]), "probability": np.ones(6)}
    described = fakes.schema(provenance={"sanity": card.to_dict()}, **predicted)
    archive = fakes.make(tmp_path / "a.h5", described=described)
    assert any("classifies 5 of 6" in sentence for sentence in onnxinfo.summary(archive))
    judged = onnxinfo.report(archive, tmp_path / "r.html").read_text()
    assert "5 of 6 labeled samples" in judged
    assert "classifies" not in judged


def listed(browser):
    """Numbers of the samples in the grid, in its order."""
    return [int(each.get_attribute("data-sample")) for each in find(browser, "#samples [role=option]")]


def set_value(browser, name, value):
    script = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(script, name, value)


def test_the_grid_has_unproven_samples_first(browser):
    assert listed(browser) == [1, 0, 2, 3, 4, 5]
    assert "1 layer unproven" in find(browser, "#samples [role=option]")[0].text
    set_value(browser, "order", "archive")
    assert listed(browser) == [*range(6)]
    set_value(browser, "order", "most")
    most = listed(browser)
    set_value(browser, "order", "least")
    assert most == listed(browser)[::-1] != [*range(6)]
    set_value(browser, "order", "unproven")


def test_the_value_of_a_sample_is_marked_where_it_is_unproven(browser):
    """Sample 1 is unproven in layer 2."""
    before = browser.find_element("id", "layer").get_attribute("value")
    for layer, marked in ((2, [1]), (0, [])):
        browser.execute_script("choose({ layer: arguments[0] })", layer)
        cards = zip(listed(browser), find(browser, "#samples [role=option]"), strict=True)
        assert [sample for sample, card in cards if "○ unproven" in card.text] == marked
    browser.execute_script("choose({ layer: arguments[0] })", int(before))


def test_samples_are_searched_and_filtered(browser):
    search = browser.find_element("id", "search")
    search.send_keys("CLASS 8")
    assert listed(browser) == [1]
    assert "1 of 6" in browser.find_element("id", "count").text
    search.clear()
    search.send_keys("nothing like it")
    assert "No sample matches" in browser.find_element("id", "samples").text
    set_value(browser, "search", "")
    set_value(browser, "class", "=2")
    assert listed(browser) == [2, 5]
    set_value(browser, "class", "")


def test_a_sample_is_chosen_by_keys(browser):
    pixels = "return document.querySelector('#maps canvas').toDataURL()"
    find(browser, "#samples [role=option]")[0].click()
    before = browser.execute_script(pixels)
    assert browser.find_element("id", "sample-name").text == "sample 1.png · label 1 · prediction class 8 (0.88)"
    browser.switch_to.active_element.send_keys("\ue014")
    assert browser.find_element("id", "sample-name").text.startswith("sample 0.png")
    assert browser.execute_script(pixels) != before
    assert "sample 0.png" in find(browser, "#maps canvas")[0].get_attribute("aria-label")
    (chosen,) = find(browser, "#samples [aria-selected=true]")
    assert chosen == browser.switch_to.active_element


def value_at(page, layer, sample, row, column):
    with onnxinfo.open(page.with_name("a.h5")) as archive:
        return archive["first"].map("sid", layer, sample)[:, row, column].mean()


def test_pixels_are_read_by_pointer_and_keys(browser, page):
    """Both tell the value of the archive, to the digits that a byte has."""
    from selenium.webdriver import ActionChains

    set_value(browser, "metric", "sid")
    canvas = find(browser, "#maps figure[data-layer='2'] canvas")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    ActionChains(browser).move_to_element(canvas).perform()
    place, value = browser.find_element("id", "tip").text.rsplit(": ", 1)
    column, row = map(int, re.search(r"x (\d+), y (\d+)", place).groups())
    sample = int(find(browser, "#samples [aria-selected=true]")[0].get_attribute("data-sample"))
    assert float(value.replace("\N{MINUS SIGN}", "-")) == pytest.approx(
        value_at(page, 2, sample, row, column), abs=0.06
    )
    canvas.click()
    figure = find(browser, "#maps figure.chosen")[0]
    assert figure.get_attribute("data-layer") == "2"
    browser.execute_script("arguments[0].focus()", figure)
    figure.send_keys("\ue014\ue014")
    place, value = browser.find_element("id", "reading").text.rsplit(": ", 1)
    column, row = map(int, re.search(r"x (\d+), y (\d+)", place).groups())
    assert float(value.replace("\N{MINUS SIGN}", "-")) == pytest.approx(
        value_at(page, 2, sample, row, column), abs=0.06
    )
    figure.send_keys("\ue00f")  # page down
    assert browser.switch_to.active_element.get_attribute("data-layer") == "3"


def test_every_layer_has_a_scale_of_its_own(browser):
    scale = browser.find_element("id", "map-scale")
    assert "each layer has its own" in scale.text
    browser.find_element("id", "shared").click()
    assert "one scale for all layers" in scale.text
    browser.find_element("id", "shared").click()


def test_a_node_leads_to_its_maps(browser):
    node = find(browser, "#nodes .node")[2]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
    node.click()
    (chosen,) = find(browser, "#maps figure.chosen")
    assert chosen.get_attribute("data-layer") == "2"
    assert browser.switch_to.active_element == chosen
    find(browser, "#nodes .node")[3].send_keys("\ue007")
    assert find(browser, "#maps figure.chosen")[0].get_attribute("data-layer") == "3"


def test_tables_are_sorted(browser):
    heading = find(browser, "#numbers th button")[6]

    def column():
        script = "return [...document.querySelectorAll('#numbers tbody tr')].map(r => r.cells[6].lastChild.data)"
        return [float(text.replace("\N{MINUS SIGN}", "-")) for text in browser.execute_script(script)]

    heading.click()
    assert column() == sorted(column())
    heading.click()
    assert column() == sorted(column(), reverse=True)
    assert find(browser, "#numbers th")[6].get_attribute("aria-sort") == "descending"


def test_all_values_are_downloaded(browser, page, tmp_path):
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.find_element("id", "csv").click()
    file = tmp_path / "onnxinfo.csv"
    wait_until(lambda: file.exists() and file.stat().st_size)  # an empty file holds the name until all is there
    with file.open(newline="") as lines:
        rows = [*csv.DictReader(lines)]
    expected = onnxinfo.query(page.with_name("a.h5"), per="sample")
    assert len(rows) == len(expected) == 2 * 2 * 4 * 6
    for name in ("run", "metric", "layer", "sample_name"):
        assert {row[name] for row in rows} == {row[name] for row in expected}
    found, wanted = (sum(float(row["value"]) for row in each) for each in (rows, expected))
    assert found == pytest.approx(wanted, abs=1e-4)
    assert sum(row["converged"] == "false" for row in rows) == sum(not row["converged"] for row in expected)


def test_hovering_shows_the_layer(browser):
    from selenium.webdriver import ActionChains

    browser.execute_script("document.getElementById('curve').scrollIntoView({block: 'center'})")
    mark = find(browser, "#curve .mark")[1]
    ActionChains(browser).move_to_element(mark).perform()
    text = browser.find_element("id", "tip").text
    assert "<script>" in text
    assert "6 of 6 samples proven" in text


def test_the_curve_chooses_the_layer_everywhere(browser):
    curve = browser.find_element("id", "curve")
    assert curve.get_attribute("role") == "slider"
    curve.send_keys("\ue011")  # Home
    assert "layer0" in curve.get_attribute("aria-valuetext")
    curve.send_keys("\ue014\ue014")  # right
    assert "layer2" in curve.get_attribute("aria-valuetext")
    assert browser.find_element("id", "layer").get_attribute("value") == "2"
    pressed = "#nodes .node[aria-pressed=true]"
    assert [each.get_attribute("data-layer") for each in find(browser, pressed)] == ["2"]
    assert find(browser, "#maps figure.chosen")[0].get_attribute("data-layer") == "2"


def test_the_keyboard_is_enough(browser):
    """Tab reaches every control, and keys operate it."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(key):
        # To the page, whatever has the focus: an element may not be interactable yet.
        ActionChains(browser).send_keys(key).perform()

    browser.execute_script(
        "document.activeElement.blur(); window.scrollTo(0, 0); window.getSelection().removeAllRanges()"
    )
    browser.execute_script("document.body.tabIndex = -1; document.body.focus()")
    visited = []
    for _ in range(60):
        press(Keys.TAB)
        here = browser.switch_to.active_element
        visited.append(here.get_attribute("id") or here.get_attribute("class") or here.tag_name)
        if visited[-1] == "theme":
            dark = shown_color(browser)
            press(Keys.SPACE)
            assert shown_color(browser) != dark
            press(Keys.SPACE)
    wanted = [
        "skip",
        "theme",
        "summary",
        "curve",
        "metric",
        "run",
        "layer",
        "node",
        "search",
        "class",
        "order",
        "shared",
        "csv",
    ]
    assert [name for name in wanted if name not in visited] == []
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    find(browser, "#nodes .node")[0].send_keys(Keys.TAB)
    assert browser.execute_script(outline) == "solid"
    press(Keys.SPACE)
    assert find(browser, "#maps figure.chosen")[0].get_attribute("data-layer") == "1"


def test_everything_has_a_name(browser):
    assert all(each.get_attribute("alt") for each in find(browser, "img"))
    assert all(each.get_attribute("aria-label") for each in find(browser, "canvas, .node, svg[role], #curve"))


def test_a_phone_is_wide_enough(screen):
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    screen.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    sides = "return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    wait_until(lambda: screen.execute_script("return document.getElementById('curve').offsetWidth") < 360)
    width, height = screen.execute_script(sides)
    assert width <= 361
    # Words broken into single letters made the page five times as high at this size.
    assert height < 9000
    wait_until(lambda: screen.execute_script("return document.querySelector('#curve svg').clientWidth") <= 360)


def test_light_and_dark(screen):
    screen.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert shown_color(screen) < 64
    assert shown_color(screen, ".card") < 64
    screen.find_element("id", "theme").click()
    assert shown_color(screen) > 192
    assert shown_color(screen, ".card") > 192


def test_print_is_dark_on_white_and_complete(screen):
    from selenium.webdriver.common.print_page_options import PrintOptions

    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    screen.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    assert shown_color(screen) > 192
    gone, kept = ["nav", "#csv", "#search", "#toggles"], ["#numbers th button", "#curve", "#maps canvas", ".node"]
    assert [name for name in gone if find(screen, name)[0].is_displayed()] == []
    assert [name for name in kept if not find(screen, name)[0].is_displayed()] == []
    pdf = base64.b64decode(screen.print_page(PrintOptions()))
    assert pdf.startswith(b"%PDF")
    assert all(each.get_attribute("open") for each in find(screen, "main details"))


def test_runs_are_laid_side_by_side(browser):
    """Differences beyond errors are counted, and the chosen map is beside that of the other run."""
    text = browser.find_element("id", "comparison").text
    assert "0 of 8 differences between layers are beyond their errors" in text
    labels = [each.get_attribute("aria-label") for each in find(browser, "#pairs canvas")]
    assert [label.split(":")[0] for label in labels] == ["first", "second", "difference"]
    colors = "const c = document.querySelectorAll('#pairs canvas')[2]; return [...new Uint32Array("
    colors += "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)]"
    assert len(set(browser.execute_script(colors))) == 1  # the runs are equal


@pytest.fixture
def odd_page(request, tmp_path, monkeypatch):
    """The report of an unusual run."""
    changes = {
        "no maps": {"metrics": (fakes.CONCENTRATION,)},
        "SID without maps": {"metrics": (replace(fakes.SID, has_map=False),)},
        "one sample": {"sample_names": ["only.png"], "labels": None, "foreground": None, "thumbnails": None},
        "one layer": {"layers": fakes.schema().layers[:1]},
        "many layers": {
            "layers": [LayerRow(f"/{'block' * 20}{i}", i, "Relu", f"relu_{i}", i, 1, "16") for i in range(200)],
            "metrics": (fakes.CONCENTRATION,),
        },
        "nothing proven": {"metrics": (fakes.SID,)},
    }[request.param]
    if request.param == "nothing proven":
        map_of = fakes.cell
        monkeypatch.setattr(fakes, "cell", lambda *at: (map_of(*at)[0], map_of(*at)[1] | {"converged": False}))
    archive = fakes.make(tmp_path / "a.h5", described=fakes.schema(**changes))
    return onnxinfo.report(archive, tmp_path / "r.html")


@contextmanager
def visit(browser, file, back):
    """Show another page, then return to one."""
    try:
        open_page(browser, file)
        yield
    finally:
        open_page(browser, back)


def open_page(browser, file):
    browser.get(file.as_uri())
    wait_until(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")


@pytest.mark.parametrize(
    "odd_page",
    ["no maps", "SID without maps", "one sample", "one layer", "many layers", "nothing proven"],
    indirect=True,
)
def test_unusual_runs_have_a_sensible_page(browser, page, odd_page, request):
    with visit(browser, odd_page, page):
        assert browser.get_log("browser") == []
        assert find(browser, ".headline .figures")
        assert find(browser, "#curve .mark")
        assert find(browser, "#nodes .node[aria-pressed=true]")
        assert browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
        assert find(browser, "#curve .error")
        assert ("no maps" in find(browser, "#gallery-note")[0].text) == (
            "maps" in request.node.name or "many" in request.node.name
        )
        edges = "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect()[arguments[1]])"
        title = browser.execute_script(edges, "#curve text.title", "right")
        numbers = browser.execute_script(edges, "#curve line.grid + text", "left")
        assert min(title) < min(numbers)
        if "nothing proven" not in request.node.name:
            return
        figures = find(browser, ".headline .figures")[0].text.split()
        assert figures[figures.index("proven") + 1] == "0%"
        assert {each.get_attribute("fill") for each in find(browser, "#curve .mark")} == {"var(--card)"}
        assert len(find(browser, "#nodes .node.unproven")) == fakes.LAYERS
        assert len(find(browser, "#numbers tr.unproven")) == fakes.LAYERS
        assert f"{fakes.LAYERS} warnings" in find(browser, ".headline")[0].text


def test_a_mostly_unproven_layer_is_not_the_first_to_look_at(browser, page, tmp_path, monkeypatch):
    cell = fakes.cell

    def unproven(metric, layer, sample, shape):
        map_, values = cell(metric, layer, sample, shape)
        changes = {2: {"value": -1.0}, 3: {"value": 1.0, "converged": sample > 2}}
        return map_, values | changes.get(layer, {})

    monkeypatch.setattr(fakes, "cell", unproven)
    path = fakes.make(tmp_path / "a.h5", "run", fakes.schema(metrics=(fakes.PROVEN_SID,)))
    onnxinfo.report(path, tmp_path / "a.html")
    with visit(browser, tmp_path / "a.html", page):
        assert browser.find_element("id", "layer").get_attribute("value") == "2"


def test_the_page_of_a_model_of_text(browser, page, tmp_path, monkeypatch):
    """Maps are rows of positions; padding has no value, and the page says how that looks."""
    map_of = fakes.cell

    def padded(metric, layer, sample, shape):
        map_, values = map_of(metric, layer, sample, shape)
        map_[5:] = np.nan
        return map_, values

    monkeypatch.setattr(fakes, "cell", padded)
    tokens = {"axes": ("position", "embedding"), "sample_shape": (7, 4), "unit": np.ones((7, 4)), "thumbnails": None}
    recipe = fakes.schema().recipe | {"unit_mask": "attention_mask"}
    described = fakes.schema(metrics=(fakes.SID,), foreground=None, recipe=recipe, **tokens)
    archive = fakes.make(tmp_path / "a.h5", described=described)
    with visit(browser, onnxinfo.report(archive, tmp_path / "r.html"), page):
        assert browser.get_log("browser") == []
        assert browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
        note = browser.find_element("id", "gallery-note").text
        assert "A position is the mean over embedding." in note
        assert "Hatched: no value, such as padding." in note
        assert len(find(browser, "#maps canvas")) == fakes.LAYERS
        alpha = "const c = document.querySelector('#maps canvas'); return [c.width, c.height, ...c.getContext('2d')"
        width, height, *pixels = browser.execute_script(alpha + ".getImageData(0, 0, c.width, c.height).data]")
        assert (width, height) == (7, 1)
        assert pixels[3::4] == [255] * 5 + [0] * 2


def test_the_accuracy_is_compared_with_its_interval(browser, page, tmp_path):
    """Eight of ten samples are right in one run, and all in the other: within the error of ten samples."""
    labels = np.arange(10) % 3
    names = [f"{i}.png" for i in range(10)]
    described = fakes.schema(metrics=(fakes.SID,), sample_names=names, labels=labels, foreground=None, thumbnails=None)
    wrong = np.where(np.arange(10) < 2, (labels + 1) % 3, labels)
    for name, predicted in (("right", labels), ("worse", wrong)):
        card = SanityCard("x", 10, {}, classes=3, labeled=10, accuracy=float(np.mean(predicted == labels)))
        changes = {"predicted": predicted, "probability": np.ones(10), "provenance": {"sanity": card.to_dict()}}
        fakes.make(tmp_path / "a.h5", name, replace(described, **changes))
    with visit(browser, onnxinfo.report(tmp_path / "a.h5", tmp_path / "r.html"), page):
        cells = find(browser, "#comparison tbody tr")[0].text.split()
        assert cells[:2] == ["whole", "network"]
        assert cells[2:6] == ["accuracy", "100.0%", "80.0%", "○" + number_text(-0.2, ".1%")]
        assert browser.get_log("browser") == []


def test_means_that_are_alike_have_like_colors(browser, page, tmp_path, monkeypatch):
    """The graph's colors span at least a standard error, so that rounding is no contrast."""
    map_of = fakes.cell

    def alike(metric, layer, sample, shape):
        map_, values = map_of(metric, layer, sample, shape)
        return map_, values | {"value": -2.5 + 0.1 * sample + 0.0001 * layer}

    monkeypatch.setattr(fakes, "cell", alike)
    archive = fakes.make(tmp_path / "a.h5", described=fakes.schema(metrics=(fakes.SID,)))
    with visit(browser, onnxinfo.report(archive, tmp_path / "r.html"), page):
        colors = [each.value_of_css_property("fill") for each in find(browser, "#nodes rect")]
        shades = np.array([re.findall(r"\d+", color)[:3] for color in colors], dtype=float)
        assert len(shades) == fakes.LAYERS
        assert np.ptp(shades, axis=0).max() <= 3


def test_a_caution_comes_first(browser, page, tmp_path):
    """Runs whose settings differ are shown with a caution above everything else, legible on any theme."""
    archive = fakes.make(tmp_path / "a.h5")
    recipe = fakes.schema().recipe
    fakes.make(archive, "other", fakes.schema(recipe=recipe | {"mean": [0.1, 0.4]}))
    with visit(browser, onnxinfo.report(archive, tmp_path / "r.html"), page):
        caution = browser.find_element("css selector", ".caution")
        assert caution.text.startswith("Caution, ")
        assert "mean" in caution.text
        assert caution.rect["y"] < find(browser, ".headline")[0].rect["y"]
        assert caution.rect["height"] > 20


@pytest.mark.slow
def test_fifty_samples_of_ten_layers_are_small_and_soon_there(browser, page, tmp_path):
    """Six megabytes and two seconds, or larger maps thinned, and the page says so."""
    layers = [LayerRow(f"relu_{i}", i, "Relu", f"relu_{i}", i, 1, "16") for i in range(10)]
    names = [f"sample {i}.png" for i in range(50)]
    picture = np.random.default_rng(0).integers(0, 255, (50, 64, 64, 3)).astype(np.uint8)
    changes = {"layers": layers, "sample_names": names, "thumbnails": picture, "metrics": (fakes.SID,)}
    with visit(browser, page, page):
        for side in (32, 96):
            described = fakes.schema(sample_shape=(3, side, side), labels=None, foreground=None, **changes)
            archive = fakes.make(tmp_path / f"{side}.h5", described=described)
            file = onnxinfo.report(archive, tmp_path / f"{side}.html")
            assert file.stat().st_size < 6_000_000
            open_page(browser, file)
            thinned = "2 by 2 input pixels" in browser.find_element("id", "gallery-note").text
            assert thinned == (side > 64)
            assert browser.execute_script("return performance.getEntriesByType('paint')[0].startTime") < 2000


@pytest.mark.parametrize("width", [360, 900, 1600])
def test_every_width_is_enough(screen, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    screen.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wait_until(lambda: screen.execute_script("return document.querySelector('#curve svg').clientWidth") <= width)
    assert screen.execute_script("return document.documentElement.scrollWidth") <= width


def test_edges_skip_what_was_not_analyzed():
    from onnxinfo.models import path

    layers = [layer.name for layer in onnxinfo.list_layers(str(path("digits-cnn.onnx"))) if layer.default]
    edges = model_edges(str(path("digits-cnn.onnx")), layers)
    assert all(first < second for first, second in edges)
    assert {second for _, second in edges} == {*range(1, len(layers))}


def test_a_model_that_is_not_the_runs_is_refused(page, tmp_path):
    from onnxinfo.models import path

    with pytest.raises(onnxinfo.UsageError, match="has not the layers of any run"):
        onnxinfo.report(page.with_name("a.h5"), tmp_path / "r.html", model=path("digits-cnn.onnx"))
    assert [*tmp_path.iterdir()] == []


def test_ranks_are_longest_paths():
    assert graph_layout([1, 2, 3, 3], [(0, 1), (0, 2), (1, 2), (1, 3)]).ranks == [0, 1, 2, 2]
    guessed = graph_layout([1, 7, 7, 9], None)
    assert (guessed.ranks, guessed.lines, guessed.known) == ([0, 1, 1, 2], [(0, 1), (1, 3)], False)


def test_the_graph_uses_the_width(browser):
    """Layers stand side by side as far as they fit, and none overlaps another."""
    boxes = [each.rect for each in find(browser, "#nodes .node rect")]
    assert len({round(box["y"]) for box in boxes}) == 1
    assert max(box["x"] + box["width"] for box in boxes) > 800
    ordered = sorted(boxes, key=lambda box: box["x"])
    assert all(one["x"] + one["width"] < two["x"] for one, two in pairwise(ordered))
