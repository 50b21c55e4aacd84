"""Draw the pictures of README and docs that show plots and the report of a run.

    python docs/pictures.py FOLDER

The folder holds archives and a model, which these commands write. The ResNet-20 is the one of the studies, whose
labels are words; its images are the first 50 test images of CIFAR-10, as PNG files::

    onnxinfo demo FOLDER
    onnxinfo analyze resnet20.onnx --inputs images --labels labels.npy --preset imagenet --run resnet20 -o resnet20.h5
    onnxinfo prune resnet20.onnx --keep 0.5 -o pruned50.onnx
    onnxinfo analyze pruned50.onnx --inputs images --labels labels.npy --preset imagenet --run pruned50 -o pruned50.h5
    onnxinfo sensitivity resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --limit 64 -o sensitivity.h5

The pictures of the report are taken in Chromium: chromium, chromedriver and selenium are needed. `report-before.png` is
a picture of version 0.1, of a run on 4 samples, and is not made again.
"""

from __future__ import annotations

import base64
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnxinfo

FOLDER = Path(__file__).with_name("pictures")
#: The first layer, the end of each block, and the class scores.
LAYERS = ["/Relu_output_0", "*Relu_1_output_0", "logits"]
#: Width and height of the part of the page that a picture shows, in pixels, and the theme.
VIEWS = {
    "report": (1100, 2000, "light"),
    "report-phone": (390, 844, "light"),
    "report-comparison-dark": (1100, 1700, "dark"),
}


def draw(folder: Path) -> None:
    """Draw all pictures."""
    FOLDER.mkdir(exist_ok=True)
    digits, network, pruned = (folder / name for name in ("digits.h5", "resnet20.h5", "pruned50.h5"))
    onnxinfo.plot(network, "overview", FOLDER / "overview.png")
    onnxinfo.plot(network, "maps", FOLDER / "changes.png", samples=["0-3"], change=True)
    onnxinfo.plot(digits, "maps", FOLDER / "maps.png", samples=["0-3"])
    onnxinfo.plot(digits, "certificate", FOLDER / "certificate.png")
    onnxinfo.plot(folder / "sensitivity.h5", "sensitivity", FOLDER / "sensitivity.png")
    with tempfile.TemporaryDirectory() as pages:
        page = onnxinfo.report(network, Path(pages) / "page.html", layers=LAYERS, model=folder / "resnet20.onnx")
        both = onnxinfo.report([network, pruned], Path(pages) / "both.html", layers=LAYERS)
        photograph({"report": page, "report-phone": page, "report-comparison-dark": both})


def photograph(pages: dict[str, Path]) -> None:
    """Take the pictures of pages in a browser."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    browser: Any = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        for name, page in pages.items():
            width, height, theme = VIEWS[name]
            screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            scheme = [{"name": "prefers-color-scheme", "value": theme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
            browser.get(page.as_uri())
            while browser.execute_script("return document.documentElement.dataset.ready") != "yes":
                time.sleep(0.2)
            taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
            (FOLDER / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))
    finally:
        browser.quit()


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
