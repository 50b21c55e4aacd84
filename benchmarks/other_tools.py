"""SID beside other people's tools: maps by Captum, zennit and IBA, and CKA by torch_cka, on one network and its images.

    pip install captum zennit torch_cka
    OMP_NUM_THREADS=1 python benchmarks/other_tools.py run FOLDER resnet20.onnx cifar10.npz --preset imagenet
    python benchmarks/other_tools.py summarize FOLDER benchmarks/results/other_tools.csv
    python benchmarks/other_tools.py show benchmarks/results/other_tools.csv
    python benchmarks/other_tools.py draw FOLDER docs/pictures/other-tools.png
    python benchmarks/other_tools.py draw-cka benchmarks/results/other_tools.csv docs/pictures/other-tools-cka.png

``run`` computes the maps of each method for the network and for copies with permuted weights (the values of each weight
tensor in random order), and CKA of all layers; it resumes, with a file for each method and network. All torch tools get
the same module, whose scores are compared with those of the converted ONNX graph first. The class is the one that the
network predicts, also for permuted weights. A map is important where it is high: SID has its sign turned.

``summarize`` compares maps by Spearman's rank correlation over blocks of 4 x 4 pixels, image by image, and by the
partial correlation if the ranks of the distance from the center are given. A map that is
constant has no ranks; such images are left out and counted. Costs are processor time per image on one thread, in units
of a forward and backward pass of the same network for the same images, measured right before.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas
import torch
from common import add_views
from deletion import BLOCK, SEED, with_permuted_weights
from deletion import blocks as means_of_blocks
from other_tools_network import Addition, ResNet, bits, from_onnx, statistics
from scipy.stats import rankdata
from torch import Tensor

import onnxinfo
from onnxinfo.archive.means import mean_and_stderr, unproven
from onnxinfo.metrics.input_provider import open_samples_of
from onnxinfo.models.studies.script import as_script
from onnxinfo.views.style import COLORS

Floats = npt.NDArray[np.float64]
MapsOfTorch = Callable[[ResNet, Tensor, Tensor], Tensor]
TOOLS = ("captum", "zennit", "torch_cka")
TRAINED, PERMUTED = "trained", "permuted"
#: Images from which IBA's statistics are estimated, and images at once.
SEEN, TOGETHER = 1000, 100
REPEATS = 5
#: Largest difference of class scores between the torch module and the ONNX graph.
CLOSE = 1e-4
LAYER, SCORES = "relu_18", "logits"
OWN = ("SID of relu_18", "SID of the predicted score")
#: Layers in the table of CKA.
SHOWN = ("relu", "relu_5", "relu_6", "relu_12", "relu_17", "relu_18")
CONTROLS = ("center first", "edges of the image")
#: What each method says, and its unit.
SAYS = {
    OWN[0]: ("onnxinfo", "noise that the whole feature tolerates at a pixel, nats"),
    OWN[1]: ("onnxinfo", "noise that the score of the class tolerates in a block, nats"),
    "Saliency": ("Captum", "absolute gradient of the score, averaged over colors"),
    "Grad-CAM": ("Captum", "features of relu_18 times their mean gradients, positive part"),
    "LRP": ("zennit", "shares of the score by the rules EpsilonPlusFlat"),
    "IBA": ("own code", "bits that must pass relu_12 for the class to be kept"),
}


def missing(names: tuple[str, ...] = TOOLS) -> str:
    """Return a line that names the packages that are not installed, or an empty text."""
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}; run: pip install {' '.join(absent)}" if absent else ""


def rank_correlations(first: Floats, second: Floats, given: Floats | None = None) -> Floats:
    """Return Spearman's rank correlation of the rows of (S, n) and (S, n), NaN where one of them is constant.

    If a third map is given, it is the partial correlation: of what the third map's ranks do not explain.
    """
    one, two = (centered_ranks(each) for each in (first, second))
    if given is not None:
        third = centered_ranks(given)
        one, two = (
            each - third * ((each * third).sum(1, keepdims=True) / (third**2).sum(1, keepdims=True))
            for each in (one, two)
        )
    norm = np.sqrt((one**2).sum(1) * (two**2).sum(1))
    return np.divide((one * two).sum(1), norm, out=np.full(len(one), np.nan), where=norm > 0)


def centered_ranks(maps: Floats) -> Floats:
    """Return the ranks of each row, minus their mean."""
    ranks = rankdata(maps, axis=1)
    return ranks - ranks.mean(1, keepdims=True)


def of_another_image(maps: Floats) -> Floats:
    """Return the rank correlation of each image's map with that of the next image."""
    return rank_correlations(maps, np.roll(maps, -1, 0))


def seconds_per_pass(network: ResNet, x: Tensor, classes: Tensor) -> float:
    """Return the median processor time of a forward and backward pass, per image."""
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        leaf = x.clone().requires_grad_(True)
        torch.autograd.grad(network(leaf).gather(1, classes[:, None]).sum(), leaf)
        spent.append(time.process_time() - began)
    return float(np.median(spent)) / len(x)


def saliency(network: ResNet, x: Tensor, classes: Tensor) -> Tensor:
    """Return Captum's absolute gradients, averaged over colors."""
    from captum.attr import Saliency

    found: Tensor = Saliency(network).attribute(x.clone().requires_grad_(True), target=classes)
    return found.mean(1)


def gradcam(network: ResNet, x: Tensor, classes: Tensor) -> Tensor:
    """Return Captum's Grad-CAM of the last activations, enlarged by its own function."""
    from captum.attr import LayerAttribution, LayerGradCam

    cam = LayerGradCam(network, network.last).attribute(x, target=classes, relu_attributions=True)
    found: Tensor = LayerAttribution.interpolate(cam, tuple(x.shape[2:]), "bilinear")
    return found[:, 0]


def lrp(network: ResNet, x: Tensor, classes: Tensor) -> Tensor:
    """Return zennit's relevances, added up over colors."""
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlusFlat
    from zennit.rules import Norm

    with Gradient(network, EpsilonPlusFlat(layer_map=[(Addition, Norm())])) as attributor:
        scores, relevance = attributor(x, torch.eye(network.linear.out_features)[classes])
    assert scores.shape == (len(x), network.linear.out_features)
    found: Tensor = relevance.sum(1)
    return found


@dataclass(frozen=True)
class Found:
    """Maps (S, height, width), the processor time they took, and the number of unproven cells."""

    maps: Floats
    seconds: float
    unproven: int = 0


class Study:
    """The images, the networks, and the files of a study."""

    def __init__(self, folder: Path, model: str, data: str, *, preset: str | None, limit: int, draws: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.preset, self.data = folder, preset, data
        self.paths = {TRAINED: Path(model)}
        for draw in range(draws):
            self.paths[f"{PERMUTED}-{draw}"] = path = folder / f"{PERMUTED}-{draw}.onnx"
            onnx.save(with_permuted_weights(model, SEED + draw), path)
        self.networks = {name: from_onnx(onnx.load(path)) for name, path in self.paths.items()}
        self.x = self.samples("x_test", limit)
        self.classes = self.networks[TRAINED](self.x).argmax(1)
        with np.load(data) as arrays:
            self.images, self.labels = arrays["x_test"][:limit], arrays["y_test"][:limit]

    def samples(self, key: str, limit: int) -> Tensor:
        """Return samples as the network receives them."""
        samples = open_samples_of(
            onnxinfo.load(self.paths[TRAINED]), f"{self.data}:{key}", preset=self.preset, limit=limit
        )
        (found,) = samples.feeds(range(limit)).values()
        return torch.from_numpy(np.asarray(found, np.float32))

    def largest_difference(self) -> float:
        """Return the largest difference between the scores of the torch module and of the converted graph."""
        (converted,) = onnxinfo.convert(self.paths[TRAINED], [SCORES])(self.x)
        return float((self.networks[TRAINED](self.x) - converted).abs().max())

    def sid_of_layer(self, name: str) -> Found:
        """Return SID of the last activations with one sigma per pixel, its sign turned."""
        return self.sid(name, LAYER, "pixel", np.arange(len(self.images)))

    def sid_of_score(self, name: str) -> Found:
        """Return SID of each image's predicted score with one sigma per block, its sign turned."""
        maps, seconds, failed = np.empty(self.images.shape[:3]), 0.0, 0
        for label in sorted({*self.classes.tolist()}):
            rows = np.nonzero(self.classes.numpy() == label)[0]
            some = self.sid(name, f"{SCORES}[{label}]", f"grid:{self.images.shape[1] // BLOCK}", rows)
            maps[rows], seconds, failed = some.maps, seconds + some.seconds, failed + some.unproven
        return Found(maps, seconds, failed)

    def sid(self, name: str, layer: str, tie: str, rows: npt.NDArray[np.intp]) -> Found:
        """Analyze a layer on some of the images; loading the model counts."""
        archive, run = self.folder / "sid.h5", f"{name} {layer}"
        began = time.process_time()
        onnxinfo.analyze(
            self.paths[name], self.images[rows], archive, layers=[layer], run=run, share_sigma=tie, seed=SEED,
            preset=self.preset, workers=1, threads=1, device="cpu", overwrite=True,
        )  # fmt: skip
        spent = time.process_time() - began
        with onnxinfo.open(archive) as opened:
            cells, maps = opened[run].values("sid"), opened[run].maps("sid", 0)
        failed = unproven({key: each[0] for key, each in cells.items()})
        return Found(-maps.astype(np.float64).mean(1), spent, int(failed.sum()))

    def iba(self, name: str) -> Found:
        """Return the bits that must pass the end of the second stage; estimating its statistics is not timed."""
        network = self.networks[name]
        seen = statistics(network, network.middle, self.samples("x_train", SEEN).split(TOGETHER))

        def all_bits(network: ResNet, x: Tensor, classes: Tensor) -> Tensor:
            pairs = zip(x.split(1), classes.tolist(), strict=True)
            return torch.stack([bits(network, network.middle, seen, *each) for each in pairs])

        return self.of_torch(all_bits, name)

    def of_torch(self, function: MapsOfTorch, name: str) -> Found:
        """Return what a function of torch finds; its first call, which imports packages, is not timed."""
        network = self.networks[name]
        function(network, self.x[:1], self.classes[:1])
        began = time.process_time()
        maps = function(network, self.x, self.classes).detach().double().numpy()
        return Found(maps, time.process_time() - began)

    def found(self, method: str, name: str) -> Found:
        """Return the maps of a method for a network."""
        torch.manual_seed(SEED)
        by_torch = {"Saliency": saliency, "Grad-CAM": gradcam, "LRP": lrp}
        if method in by_torch:
            return self.of_torch(by_torch[method], name)
        return {OWN[0]: self.sid_of_layer, OWN[1]: self.sid_of_score, "IBA": self.iba}[method](name)


def run(chosen: argparse.Namespace) -> None:
    """Compute the maps and CKA that are not there yet."""
    if line := missing():
        raise SystemExit(line)
    torch.set_num_threads(1)
    study = Study(
        chosen.folder, chosen.model, chosen.data, preset=chosen.preset, limit=chosen.limit, draws=chosen.draws
    )
    difference = study.largest_difference()
    if difference > CLOSE:
        raise SystemExit(f"the torch module and the ONNX graph differ by {difference:.2g} in the class scores")
    right = (study.classes.numpy() == study.labels).sum()
    np.savez(chosen.folder / "images.npz", images=study.images, difference=difference, right=right)
    for method in SAYS:
        for name, network in study.networks.items():
            target = file_of(chosen.folder, method, name)
            if target.exists():
                continue
            unit = seconds_per_pass(network, study.x, study.classes)
            found = study.found(method, name)
            cost = found.seconds / len(found.maps) / unit
            np.savez(target, maps=found.maps, unproven=found.unproven, cost=cost, unit=unit)
            print(f"{method}, {name}: {cost:.1f} passes per image", flush=True)
    if not (chosen.folder / "cka.csv").exists():
        compare_cka(study, chosen.cka_limit).to_csv(chosen.folder / "cka.csv", index=False)


def file_of(folder: Path, method: str, name: str) -> Path:
    """Return the file of a method's maps for a network."""
    return folder / f"{method.replace(' ', '-')}-{name}.npz"


def compare_cka(study: Study, limit: int) -> pandas.DataFrame:
    """Return CKA of each layer with the class scores: ours, and torch_cka's with all images at once or in batches."""
    network = study.networks[TRAINED]
    x = study.samples("x_test", limit)
    with np.load(study.data) as arrays:
        images = arrays["x_test"][:limit]
    unit = seconds_per_pass(network, x[: len(study.x)], study.classes)
    spent, found = {}, {}
    began = time.process_time()
    archive = study.folder / "cka.h5"
    onnxinfo.analyze(
        study.paths[TRAINED], images, archive, metrics=["cka"], preset=study.preset, workers=1, threads=1,
        device="cpu", overwrite=True,
    )  # fmt: skip
    with onnxinfo.open(archive) as opened:
        (own,) = opened.values()
        names = [layer.name for layer in own.layers]
        values = own.values("cka")["value"]
    found["onnxinfo"] = values.mean(1)
    errors = [mean_and_stderr(each)[1] for each in values]
    spent["onnxinfo"] = time.process_time() - began
    for key, batch in (("torch_cka", limit), (f"torch_cka, batches of {TOGETHER // 2}", TOGETHER // 2)):
        began = time.process_time()
        found[key] = torch_cka_with_scores(network, x, batch)
        spent[key] = time.process_time() - began
    costs = {key: each / limit / unit for key, each in spent.items()}
    return pandas.DataFrame(
        [
            {
                "method": key,
                "layer": layer,
                "value": value,
                "stderr": error if key == "onnxinfo" else None,
                "cost": costs[key],
                "images": limit,
            }
            for key, values in found.items()
            for layer, value, error in zip(names, values, errors, strict=True)
        ]
    )


def torch_cka_with_scores(network: ResNet, x: Tensor, batch: int) -> Floats:
    """Return torch_cka's CKA of each layer with the class scores."""
    from torch.utils.data import DataLoader, TensorDataset
    from torch_cka import CKA

    layers = network.layers()
    cka = CKA(network, network, model1_layers=layers, model2_layers=layers[-1:], device="cpu")
    with torch.no_grad():
        cka.compare(DataLoader(TensorDataset(x), batch))
    return cka.export()["CKA"][:, 0].double().numpy()


def summarize(chosen: argparse.Namespace) -> None:
    """Write costs, rank correlations and CKA."""
    found = pandas.DataFrame([*rows_of_maps(chosen.folder), *rows_of_cka(chosen.folder)])
    columns = ["what", "method", "other", "value", "stderr", "images", "undefined"]
    counts = {"images": "Int64", "undefined": "Int64"}
    found[columns].astype({"value": float, "stderr": float, **counts}).to_csv(
        chosen.results, index=False, float_format="%.6g"
    )


def rows_of_maps(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one line per comparison of maps."""
    with np.load(folder / "images.npz") as found:
        count = len(found["images"])
        maps = {name: means_of_blocks(each[:, None]) for name, each in controls(found["images"]).items()}
        yield {"what": "difference", "value": float(found["difference"])}
        yield {"what": "right", "value": int(found["right"]), "images": count}
    permuted: dict[str, list[Floats]] = {}
    for method in SAYS:
        with np.load(file_of(folder, method, TRAINED)) as found:
            maps[method] = means_of_blocks(found["maps"][:, None])
            yield {"what": "cost", "method": method, "value": float(found["cost"]), "images": count}
            if method == "Saliency":
                yield {"what": "milliseconds per pass", "value": 1000 * float(found["unit"])}
            if method in OWN:
                yield {"what": "unproven", "method": method, "value": int(found["unproven"]), "images": count}
        permuted[method], failed = [], 0
        for path in sorted(folder.glob(file_of(folder, method, f"{PERMUTED}-*").name)):
            with np.load(path) as found:
                permuted[method].append(means_of_blocks(found["maps"][:, None]))
                failed += int(found["unproven"])
        if method in OWN:
            images = count * len(permuted[method])
            yield {"what": "unproven, permuted", "method": method, "value": failed, "images": images}
    for method, others in permuted.items():
        values = np.stack([rank_correlations(maps[method], each) for each in others])
        yield {"what": "permuted", "method": method, **summary_of_draws(values)}
        less = values - of_another_image(maps[method])
        yield {"what": "permuted - another image", "method": method, **summary_of_draws(less)}
        for draw, each in enumerate(values):
            yield {"what": f"permuted, draw {draw}", "method": method, **summary(each)}
    for method in maps:
        yield {"what": "another image", "method": method, **summary(of_another_image(maps[method]))}
    order = [*SAYS, *CONTROLS]
    for place, method in enumerate(order):
        for other in order[:place]:
            pair, same = (maps[method], maps[other]), {"method": method, "other": other}
            yield {"what": "agreement", **same, **summary(rank_correlations(*pair))}
            if CONTROLS[0] not in (method, other):
                partial = rank_correlations(*pair, maps[CONTROLS[0]])
                yield {"what": "agreement beyond the center", **same, **summary(partial)}


def summary(values: Floats) -> dict[str, Any]:
    """Return mean and standard error over images, their number, and how many are undefined."""
    known = values[~np.isnan(values)]
    mean, stderr, count = mean_and_stderr(known)
    return {"value": mean, "stderr": stderr, "images": count, "undefined": len(values) - len(known)}


def summary_of_draws(values: Floats) -> dict[str, Any]:
    """Return the mean over draws and images, (draws, S), with its standard error over images.

    Where values are undefined, the mean is over all others, and the error that of a ratio of sums over images.
    """
    known = ~np.isnan(values)
    counts, images = known.sum(0), known.any(0).sum()
    mean = values[known].mean()
    rests = np.where(known, values - mean, 0).sum(0)
    stderr = np.sqrt((rests**2).sum() * images / (images - 1)) / counts.sum()
    return {"value": mean, "stderr": stderr, "images": images, "undefined": int((~known).sum())}


def controls(images: npt.NDArray[np.uint8]) -> dict[str, Floats]:
    """Return maps that know no network: closeness to the center, and the gradient of the image's brightness."""
    count, height, width, _ = images.shape
    y, x = np.mgrid[:height, :width] - (np.array([height, width]).reshape(2, 1, 1) - 1) / 2
    slopes = np.gradient(images.astype(np.float64).mean(3), axis=(1, 2))
    return {
        CONTROLS[0]: np.repeat(-np.hypot(y, x)[None], count, 0),
        CONTROLS[1]: np.hypot(*slopes),
    }


def rows_of_cka(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield CKA of each layer, and costs."""
    found = pandas.read_csv(folder / "cka.csv")
    for row in found.to_dict("records"):
        same = {key: row[key] for key in ("method", "value", "stderr", "images")}
        yield {"what": "CKA", "other": row["layer"], **same}
    for method, cost in found.groupby("method", sort=False)["cost"].first().items():
        yield {"what": "cost of CKA", "method": method, "value": cost, "images": found.images.iloc[0]}


def tables(path: Path) -> str:
    """Return the tables of the study."""
    found = (
        pandas.read_csv(path).fillna({"method": "", "other": ""}).set_index(["what", "method", "other"]).sort_index()
    )
    order = [*SAYS, *CONTROLS]
    parts = [
        table_of_methods(found),
        matrix(found, "agreement", order),
        matrix(found, "agreement beyond the center", [method for method in order if method != CONTROLS[0]]),
        cka_table(found),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def cell(found: pandas.DataFrame, what: str, method: str, other: str = "", sign: str = "") -> str:
    """Return a mean with its standard error, and how many maps were left out because they are constant."""
    place = (what, method, other)
    row = found.loc[place if place in found.index else (what, other, method)]
    left_out = f" ({int(row.undefined)} constant)" if row.undefined else ""
    return f"{row.value:{sign}.2f} ± {row.stderr:.2f}{left_out}"


def table_of_methods(found: pandas.DataFrame) -> list[str]:
    """Return the lines of the table of all methods."""
    head = ["map", "tool", "what it says", "passes", *(f"agrees with {each}" for each in OWN)]
    head += ["with permuted weights", "with the next image", "permuted - next"]
    lines = [f"| {' | '.join(head)} |", "| --- | --- | --- |" + " ---: |" * (len(head) - 3)]
    for method, (tool, says) in SAYS.items():
        cost = found.loc[("cost", method, "")].value
        cells = [method, tool, says, f"{cost:.1f}" if cost < 10 else f"{cost:.0f}"]
        cells += ["" if method == own else cell(found, "agreement", method, own) for own in OWN]
        cells += [cell(found, what, method) for what in ("permuted", "another image")]
        lines.append(f"| {' | '.join([*cells, cell(found, 'permuted - another image', method, sign='+')])} |")
    for method in CONTROLS:
        cells = [cell(found, "agreement", method, own) for own in OWN]
        cells = [method, "", "no network", "", *cells, "", cell(found, "another image", method), ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def matrix(found: pandas.DataFrame, what: str, order: list[str]) -> list[str]:
    """Return the lines of a table of each method with each that follows."""
    lines = [f"| | {' | '.join(order[1:])} |", "| --- |" + " ---: |" * (len(order) - 1)]
    for place, method in enumerate(order[:-1]):
        cells = [""] * place + [cell(found, what, method, other) for other in order[place + 1 :]]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def cka_table(found: pandas.DataFrame) -> list[str]:
    """Return the lines of the table of CKA: a sample of the layers, and the largest differences of all."""
    values = found.loc["CKA"].value.unstack("method")
    errors = found.loc[("CKA", "onnxinfo")].stderr
    costs = found.loc["cost of CKA"].value.droplevel("other")
    own, others = values["onnxinfo"], [name for name in values.columns if name != "onnxinfo"]
    lines = [f"| layer | onnxinfo | {' | '.join(others)} |", "| --- |" + " ---: |" * (1 + len(others))]
    for layer in SHOWN:
        cells = [f"{own[layer]:.4f} ± {errors[layer]:.4f}", *(f"{values[name][layer]:.4f}" for name in others)]
        lines.append(f"| `{layer}` | {' | '.join(cells)} |")
    apart = {name: (values[name] - own).abs() for name in others}
    largest = [f"{apart[name].max():.4f}" for name in others]
    lines.append(f"| largest difference from onnxinfo of {len(values)} layers | | {' | '.join(largest)} |")
    known = errors > CLOSE  # CKA of the class scores with themselves has no error.
    largest = [f"{(apart[name] / errors)[known].max():.2f}" for name in others]
    lines.append(f"| the same in standard errors | | {' | '.join(largest)} |")
    passes = [f"{costs[name]:.2g}" for name in ("onnxinfo", *others)]
    lines.append(f"| passes per image | {' | '.join(passes)} |")
    return lines


def draw(chosen: argparse.Namespace) -> None:
    """Draw the maps of four images, and those of the first two with permuted weights."""
    import matplotlib.pyplot as plt
    from PIL import Image

    folder = chosen.results
    with np.load(folder / "images.npz") as found:
        images = found["images"]
    rows = [(image, TRAINED) for image in range(4)] + [(image, f"{PERMUTED}-0") for image in range(2)]
    figure, panels = plt.subplots(len(rows), len(SAYS) + 1, figsize=(7.2, 6.4), layout="constrained")
    for line, (image, name) in zip(panels, rows, strict=True):
        line[0].imshow(images[image])
        line[0].set_ylabel("trained" if name == TRAINED else "permuted weights", fontsize=7)
        for panel, method in zip(line[1:], SAYS, strict=True):
            with np.load(file_of(folder, method, name)) as found:
                each = found["maps"][image]
            low, high = np.quantile(each, (0.01, 0.99))
            panel.imshow(each, cmap="viridis", vmin=low, vmax=high if high > low else low + 1)
        for panel in line:
            panel.set(xticks=[], yticks=[])
    for panel, title in zip(panels[0], ["image", "SID of relu_18", "SID of the score", *[*SAYS][2:]], strict=True):
        panel.set_title(title, fontsize=7)
    figure.savefig(chosen.picture, dpi=110)
    plt.close(figure)
    with Image.open(chosen.picture) as picture:
        picture.convert("RGB").quantize(256).save(chosen.picture, optimize=True)


def draw_cka(chosen: argparse.Namespace) -> None:
    """Draw CKA of each layer by both tools, with bars of two standard errors where a tool gives one."""
    import matplotlib.pyplot as plt

    found = pandas.read_csv(chosen.results)
    found = found[found.what == "CKA"]
    figure, panel = plt.subplots(figsize=(7.2, 2.6), layout="constrained")
    for (method, each), color, marker in zip(
        found.groupby("method", sort=False), COLORS[:3], ("", "x", "+"), strict=True
    ):
        errors = 2 * each.stderr if each.stderr.notna().any() else None
        panel.errorbar(
            each.other,
            each.value,
            errors,
            label=str(method),
            color=color,
            marker=marker,
            linestyle="" if marker else "-",
        )
    panel.set(ylabel="CKA with the class scores", ylim=(0, 1.05))
    panel.tick_params(axis="x", rotation=60)
    panel.legend(frameon=False)
    figure.savefig(chosen.picture, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run, summarize, show or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("model", help="a ResNet for CIFAR with batch normalization folded into its convolutions")
    running.add_argument("data", help="npz file with x_test, y_test and x_train")
    running.add_argument("--preset")
    running.add_argument("--limit", type=int, default=32, help="images for maps")
    running.add_argument("--draws", type=int, default=3, help="networks with permuted weights")
    running.add_argument("--cka-limit", type=int, default=300, help="images for CKA")
    running.set_defaults(do=run)
    summarizing = commands.add_parser("summarize")
    summarizing.add_argument("folder", type=Path)
    summarizing.add_argument("results", type=Path)
    summarizing.set_defaults(do=summarize)
    add_views(commands, tables, draw)
    drawing = commands.add_parser("draw-cka")
    drawing.add_argument("results", type=Path)
    drawing.add_argument("picture", type=Path)
    drawing.set_defaults(do=draw_cka)
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    as_script(main)
