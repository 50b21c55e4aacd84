"""Does the map tell the truth? Curves of deletion and insertion by SID maps, gradients, Grad-CAM and controls.

    python benchmarks/deletion.py maps study resnet20.onnx cifar10.npz:x_test --preset imagenet --limit 64 \\
        --layers logits /layer2/layer2.2/Relu_1_output_0
    python benchmarks/deletion.py curves study resnet20.onnx cifar10.npz:x_test --preset imagenet --limit 64 \\
        --layers logits /layer2/layer2.2/Relu_1_output_0 --gradcam /layer3/layer3.2/Relu_1_output_0 -o deletion.png

Blocks of 4 x 4 pixels are ordered by a map, the most important one first: that with the lowest SID, or the largest
gradient or Grad-CAM. Deletion replaces blocks in this order, by the mean color of the images or by a blurred copy of
the image; insertion starts from the replacement and puts blocks back. The curve is the probability of the class that is
predicted for the whole image, and its area the mean over the curve: a map that knows what the network uses has a small
area of deletion and a large one of insertion. Controls: random orders, blocks from the center outwards, and SID of the
network with permuted weights. SID is that of all class scores, of the predicted class's score alone, and of a middle
layer. Differences are paired over images, with 95 % intervals from a bootstrap.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from scipy.ndimage import gaussian_filter

import onnxinfo
from onnxinfo.metrics.input_provider import open_samples_of
from onnxinfo.models.studies.script import as_script
from onnxinfo.views.style import COLORS

BLOCK, STRIDE, SEED = 4, 2, 0
RANDOM_ORDERS, BOOTSTRAP, BLUR, BATCH = 5, 10_000, 4.0, 256
Floats = npt.NDArray[np.float64]


def main() -> None:
    """Compute maps, or draw curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("maps", "curves"))
    parser.add_argument("folder", type=Path, help="folder of the archives")
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("--preset")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--layers", nargs="+", required=True, help="the first is the class scores")
    parser.add_argument("--gradcam", help="layer of Grad-CAM")
    parser.add_argument("-o", "--output", type=Path, help="picture")
    chosen = parser.parse_args()
    (make_maps if chosen.what == "maps" else show_curves)(chosen)


def make_maps(chosen: argparse.Namespace) -> None:
    """Compute SID of the network, and of the network with permuted weights."""
    chosen.folder.mkdir(parents=True, exist_ok=True)
    onnx.save(with_permuted_weights(chosen.model), chosen.folder / "permuted.onnx")
    shared = {"limit": chosen.limit, "preset": chosen.preset, "workers": 1}
    onnxinfo.analyze(chosen.model, chosen.inputs, chosen.folder / "maps.h5", layers=chosen.layers, **shared)
    permuted = chosen.folder / "permuted.onnx"
    onnxinfo.analyze(permuted, chosen.inputs, chosen.folder / "permuted.h5", layers=chosen.layers[:1], **shared)
    predicted = onnxinfo.convert(chosen.model, chosen.layers[:1])(torch.from_numpy(images(chosen)))[0].argmax(1)
    for label in sorted({*predicted.tolist()}):
        # Arrays of floats are not scaled again.
        some = images(chosen)[(predicted == label).numpy()]
        layer = f"{chosen.layers[0]}[{label}]"
        # One number says little about single pixels; blocks are what is deleted.
        tie = f"grid:{some.shape[-1] // BLOCK}"
        archive = chosen.folder / "scores.h5"
        onnxinfo.analyze(chosen.model, some, archive, layers=[layer], run=str(label), share_sigma=tie, workers=1)


def images(chosen: argparse.Namespace) -> npt.NDArray[np.float32]:
    """Return the images as the network receives them."""
    samples = open_samples_of(onnxinfo.load(chosen.model), chosen.inputs, preset=chosen.preset, limit=chosen.limit)
    ((_, x),) = samples.feeds(range(chosen.limit)).items()
    return np.asarray(x, np.float32)


def with_permuted_weights(path: str, seed: int = SEED) -> onnx.ModelProto:
    """Return a network whose weight tensors, without biases, have their values in random order."""
    model, stream = onnx.load(path), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim >= 2 and values.dtype.kind == "f":
            mixed = stream.permutation(values.ravel()).reshape(values.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(mixed, tensor.name))
    return model


def show_curves(chosen: argparse.Namespace) -> None:
    """Print areas and differences, and draw the curves."""
    network = onnxinfo.load(chosen.model)
    samples = open_samples_of(network, chosen.inputs, preset=chosen.preset, limit=chosen.limit)
    ((name, x),) = samples.feeds(range(chosen.limit)).items()
    session = onnxruntime.InferenceSession(network.proto.SerializeToString(), providers=["CPUExecutionProvider"])

    def probabilities(images: npt.NDArray[np.float32]) -> Floats:
        parts = [session.run(None, {name: images[start : start + BATCH]})[0] for start in range(0, len(images), BATCH)]
        return torch.from_numpy(np.concatenate(parts)).double().softmax(1).numpy()

    scores = importance(chosen, network, x)
    shuffled = np.random.default_rng(SEED)
    ties = {key: values + 1e-9 * np.abs(values).max() * shuffled.random(values.shape) for key, values in scores.items()}
    orders = {key: [np.argsort(-values, 1)] for key, values in ties.items()}
    count = next(iter(scores.values())).shape
    orders["random"] = [np.argsort(shuffled.random(count), 1) for _ in range(RANDOM_ORDERS)]
    replacements = {
        "mean": np.broadcast_to(x.mean((0, 2, 3), keepdims=True), x.shape).astype(np.float32),
        "blur": gaussian_filter(x, (0, 0, BLUR, BLUR)),
    }
    curves = {
        (way, by): {key: mean_curve(given, x, other, way, probabilities) for key, given in orders.items()}
        for way in ("deletion", "insertion")
        for by, other in replacements.items()
    }
    show(curves)
    if chosen.output is not None:
        draw(curves, chosen.output)


def importance(chosen: argparse.Namespace, network: onnxinfo.Model, x: npt.NDArray[np.float32]) -> dict[str, Floats]:
    """Return the importance of each block by each map, (S, blocks)."""
    found = {}
    with onnxinfo.open(chosen.folder / "maps.h5") as archive:
        (run,) = archive.values()
        names = [layer.name for layer in run.layers]
        for layer in chosen.layers:
            which = "class scores" if layer == chosen.layers[0] else "middle layer"
            found[f"SID, {which}"] = blocks(-run.maps("sid", names.index(layer)))
        share = run.values("sid")["converged"][names.index(chosen.layers[0])].mean()
        print(f"{len(x)} images; {1 - share:.1%} of the cells of the class scores are unproven")
    graph = onnxinfo.convert(network, [chosen.gradcam, chosen.layers[0]])
    leaf = torch.from_numpy(x).requires_grad_(True)
    feature, scores = graph(leaf)
    found["SID, predicted class"] = of_predicted_class(chosen.folder / "scores.h5", scores.argmax(1).numpy())
    top = scores.max(1).values.sum()
    gradient, weights = torch.autograd.grad(top, [leaf, feature])
    found["gradient"] = blocks(gradient.abs().numpy())
    cam = (weights.mean((2, 3), keepdim=True) * feature).sum(1, keepdim=True).relu()
    wide = torch.nn.functional.interpolate(cam, x.shape[2:], mode="bilinear", align_corners=False)
    found["Grad-CAM"] = blocks(wide.detach().numpy())
    with onnxinfo.open(chosen.folder / "permuted.h5") as archive:
        (run,) = archive.values()
        found["SID, permuted weights"] = blocks(-run.maps("sid", 0))
    y, z = np.mgrid[: x.shape[2], : x.shape[3]] - (np.array(x.shape[2:]).reshape(2, 1, 1) - 1) / 2
    found["center first"] = np.repeat(blocks(-np.hypot(y, z)[None, None]), len(x), 0)
    return found


def of_predicted_class(path: Path, predicted: npt.NDArray[np.int64]) -> Floats:
    """Return the importance of each block for each image's predicted class alone, (S, blocks)."""
    found, proven = [np.empty(0)] * len(predicted), []
    with onnxinfo.open(path) as archive:
        for label in sorted({*predicted.tolist()}):
            maps = blocks(-archive[str(label)].maps("sid", 0))
            proven += archive[str(label)].values("sid")["converged"].ravel().tolist()
            for place, each in zip(np.nonzero(predicted == label)[0], maps, strict=True):
                found[place] = each
    print(f"{1 - np.mean(proven):.1%} of the cells of the predicted class are unproven")
    return np.stack(found)


def blocks(maps: npt.NDArray[np.floating]) -> Floats:
    """Return the mean of maps (S, channels, height, width) over channels and each block, (S, blocks)."""
    count, _, height, width = maps.shape
    cells = maps.astype(np.float64).mean(1).reshape(count, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return cells.mean((2, 4)).reshape(count, -1)


def mean_curve(
    orders: list[npt.NDArray[np.intp]],
    x: npt.NDArray[np.float32],
    other: npt.NDArray[np.float32],
    way: str,
    probabilities: Callable[[npt.NDArray[np.float32]], Floats],
) -> Floats:
    """Return the probability of the predicted class by number of changed blocks, (S, steps), averaged over orders."""
    first, second = (x, other) if way == "deletion" else (other, x)
    rows, predicted = np.arange(len(x)), probabilities(x).argmax(1)
    found = []
    for order in orders:
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(order.shape[1])[None], 1)
        side = x.shape[2] // BLOCK, x.shape[3] // BLOCK
        rank_of_pixel = np.kron(rank.reshape(-1, 1, *side), np.ones((1, 1, BLOCK, BLOCK), np.int64))
        steps = range(0, order.shape[1] + 1, STRIDE)
        changed = [np.where(rank_of_pixel < step, second, first).astype(np.float32) for step in steps]
        found.append(np.stack([probabilities(images)[rows, predicted] for images in changed], 1))
    return np.mean(found, 0)


def show(curves: dict[tuple[str, str], dict[str, Floats]]) -> None:
    """Print a table of areas, and one of paired differences."""
    keys = [*curves]
    areas = {key: {method: curve.mean(1) for method, curve in found.items()} for key, found in curves.items()}
    methods = [*areas[keys[0]]]
    print(f"| map | {' | '.join(f'{way}, {by}' for way, by in keys)} |\n|{' --- |' * (len(keys) + 1)}")
    for method in methods:
        values = [areas[key][method] for key in keys]
        cells = [f"{each.mean():.3f} ± {each.std(ddof=1) / np.sqrt(len(each)):.3f}" for each in values]
        print(f"| {method} | {' | '.join(cells)} |")
    for own in (method for method in methods if method in ("SID, class scores", "SID, predicted class")):
        print(f"\n| {own}, minus | {' | '.join(f'{way}, {by}' for way, by in keys)} |")
        print(f"|{' --- |' * (len(keys) + 1)}")
        for method in methods:
            if method != own:
                cells = [interval(areas[key][own] - areas[key][method]) for key in keys]
                print(f"| {method} | {' | '.join(cells)} |")


def interval(differences: Floats) -> str:
    """Return a mean difference with its 95 % interval over images."""
    stream = np.random.default_rng(SEED)
    means = differences[stream.integers(len(differences), size=(BOOTSTRAP, len(differences)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{differences.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def draw(curves: dict[tuple[str, str], dict[str, Floats]], path: Path) -> None:
    """Draw the mean curves."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.6), sharex=True, sharey=True, layout="constrained")
    styles = ("-", "--", "-", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
    for panel, ((way, by), found) in zip(axes.flat, curves.items(), strict=True):
        for i, (method, curve) in enumerate(found.items()):
            share = np.linspace(0, 100, curve.shape[1])
            panel.plot(share, curve.mean(0), linestyle=styles[i], color=("k", *COLORS[:6], "0.5")[i], label=method)
        panel.set_title(f"{way}: {'mean color' if by == 'mean' else 'blurred image'}", fontsize=9)
        panel.set_ylim(0, 1)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[1]:
        panel.set_xlabel("blocks changed, most important first, %")
    for panel in axes[:, 0]:
        panel.set_ylabel("probability of the\npredicted class")
    axes[0, 0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    as_script(main)
