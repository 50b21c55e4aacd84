"""The report, as text and in a browser without network."""

import json
import re
import shutil
import time
from dataclasses import replace

import archive_fakes as fakes
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo.archive.format import LayerRow
from onnxinfo.cli import cli
from onnxinfo.views.report.graph import draw_graph, model_edges

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

HOSTILE = "<script>document.title = 'taken'</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    archive = folder / "a.h5"
    described = fakes.schema(metrics=(fakes.SID, fakes.GRADIENT))
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


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def test_the_file_is_complete_in_itself(page):
    text = page.read_text()
    assert len(text) < 10_000_000
    own = text[: text.index('<script type="application/json"')]
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", own)
    assert HOSTILE not in text
    assert "alpha" in own
    assert "not converged" in own


def test_it_loads_without_errors_or_requests(browser, page):
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} <= {page.as_uri()}


def test_a_name_that_is_markup_stays_text(browser):
    assert browser.title.startswith("onnxinfo")
    assert any(HOSTILE in each.get_attribute("aria-label") for each in find(browser, ".node"))
    assert HOSTILE in browser.find_element("css selector", "#numbers tbody").text


def test_runs_are_toggled(browser):
    lines = ".scatterlayer .trace path.js-line"
    before = len(find(browser, lines))
    box = find(browser, "#toggles input")[1]
    box.click()
    assert len(find(browser, lines)) < before
    box.click()
    assert len(find(browser, lines)) == before


def test_the_slider_chooses_the_sample(browser):
    pixels = "return document.querySelector('#maps canvas').toDataURL()"
    before = browser.execute_script(pixels)
    slider = browser.find_element("id", "sample")
    slider.send_keys("\ue014")
    assert browser.find_element("id", "sample-name").text == "sample 1.png, label 1"
    assert browser.execute_script(pixels) != before
    assert "sample 1.png" in find(browser, "#maps canvas")[0].get_attribute("aria-label")


def test_a_node_leads_to_its_maps(browser):
    find(browser, ".graph:not([hidden]) .node")[2].click()
    (chosen,) = find(browser, "#maps figure.chosen")
    assert chosen.get_attribute("data-layer") == "2"
    assert browser.switch_to.active_element == chosen
    find(browser, ".graph:not([hidden]) .node")[3].send_keys("\ue007")
    assert find(browser, "#maps figure.chosen")[0].get_attribute("data-layer") == "3"


def test_tables_are_sorted(browser):
    heading = find(browser, "#numbers th button")[5]

    def column():
        script = "return [...document.querySelectorAll('#numbers tbody tr')].map(r => Number(r.cells[5].textContent))"
        return browser.execute_script(script)

    heading.click()
    assert column() == sorted(column())
    heading.click()
    assert column() == sorted(column(), reverse=True)
    assert find(browser, "#numbers th")[5].get_attribute("aria-sort") == "descending"


def test_everything_has_a_name_and_fits_a_phone(browser):
    assert all(each.get_attribute("alt") for each in find(browser, "img"))
    assert all(each.get_attribute("aria-label") for each in find(browser, "canvas, .node, svg[role], #curve"))
    browser.set_window_size(500, 800)
    wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 1
    browser.set_window_size(1200, 900)


def test_light_and_dark(browser):
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(colour)
    browser.find_element("id", "theme").click()
    assert browser.execute_script(colour) != before
    browser.find_element("id", "theme").click()


def test_edges_skip_what_was_not_analyzed():
    from onnxinfo.models import path

    layers = [layer.name for layer in onnxinfo.list_layers(str(path("digits-cnn.onnx"))) if layer.default]
    edges = model_edges(str(path("digits-cnn.onnx")), layers)
    assert all(first < second for first, second in edges)
    assert {second for _, second in edges} == {*range(1, len(layers))}


def test_ranks_are_longest_paths():
    drawing = draw_graph([1, 2, 3, 3], [(0, 1), (0, 2), (1, 2), (1, 3)])
    rows = [y for _, y in drawing.boxes]
    assert rows[0] < rows[1] < rows[2] == rows[3]
    assert drawing.boxes[2][0] != drawing.boxes[3][0]
    assert len(drawing.lines) == 4
