"""SID of a random forest's features beside permutation importance and impurity: where they disagree, and why.

    python benchmarks/importance.py
    python benchmarks/importance.py --samples 20

A random forest is trained on the table of breast cancers that scikit-learn ships, with two columns added: a copy of
the most important one with a little noise, and one of random numbers. SID is the mean over samples, relative to the
cap: 0 for a feature that the forest ignores. Permutation importance is the mean decrease of the accuracy, and the mean
squared change of the probabilities over their variance (output). Budget: 0.01 of the variance over the table.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import machine
from forward import ALPHA, Case, prepared_job, solve_by_evaluations, spread
from scipy.stats import spearmanr
from sklearn.inspection import permutation_importance
from trained import SEED, Table, export, load_table, train

from onnxinfo.analysis.variance import feature_variances
from onnxinfo.metrics.noise import ENTROPY
from onnxinfo.models.studies.script import as_script

MODEL, REPEATS = "random forest", 20
#: Standard deviation of the noise in the copied column, relative to the column's.
OF_COPY = 0.05
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """One number per feature: SID below the cap, permutation importance in accuracy and output, and impurity."""

    sid: Floats
    stderr: Floats
    accuracy: Floats
    output: Floats
    impurity: Floats


def table_with_more() -> Table:
    """The table with a noisy copy of its most important column, and a column of random numbers."""
    table = load_table("breast_cancer")
    best = int(np.argmax(train(MODEL, table).feature_importances_))
    stream = np.random.default_rng(SEED)
    column = table.x[:, best]
    copy = column + OF_COPY * column.std() * stream.normal(size=len(column))
    x = np.column_stack([table.x, copy, stream.normal(size=len(column))]).astype(np.float32)
    return Table(x, table.y, (*table.names, f"copy of {table.names[best]}", "random numbers"), table.has_classes)


def importance(table: Table, samples: int) -> Importance:
    """Train the forest, and measure each feature's importance in every way."""
    forest = train(MODEL, table)
    case = Case(MODEL, export(MODEL, forest, table), table.x)
    job = prepared_job(case, SEED, forward=True)
    budget = ALPHA * feature_variances(job, [0])[0]
    found = [solve_by_evaluations(job, sample, budget) for sample in spread(len(table.x), samples)]
    proven = [bool(each.certificate.converged) for each in found]
    whole = np.mean([float(each.entropy.mean()) for each in found])
    print(f"{sum(proven)} of {len(proven)} samples proven; mean SID {whole:.3f}")
    sid = torch.stack([each.entropy[0] for each in found]).double().numpy() - ENTROPY
    permuted = permutation_importance(forest, table.x, table.y, n_repeats=REPEATS, random_state=SEED)
    return Importance(
        sid.mean(0),
        sid.std(0) / np.sqrt(len(sid)),
        permuted.importances_mean,
        _of_output(forest, table.x),
        forest.feature_importances_,
    )


def _of_output(forest: Any, x: npt.NDArray[np.float32]) -> Floats:
    """Mean squared change of the probabilities when a column is permuted, over their variance."""
    stream, before = np.random.default_rng(SEED), forest.predict_proba(x)
    changes = []
    for column in range(x.shape[1]):
        other = x.copy()
        total = 0.0
        for _ in range(REPEATS):
            other[:, column] = stream.permutation(x[:, column])
            total += float(np.square(forest.predict_proba(other) - before).sum(1).mean())
        changes.append(total / REPEATS)
    return np.array(changes) / before.var(0).sum()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=12)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"{machine('cpu')}; {arguments.samples} samples")
    table = table_with_more()
    found = importance(table, arguments.samples)
    print("\n| feature | SID - cap | stderr | permutation: accuracy | permutation: output | impurity |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for i in np.argsort(found.sid):
        row = f"{found.sid[i]:.2f} | {found.stderr[i]:.2f} | {found.accuracy[i]:.4f} | {found.output[i]:.4f}"
        print(f"| {table.names[i]} | {row} | {found.impurity[i]:.3f} |")
    print("\n| rank correlation of -SID with | Spearman |\n| --- | ---: |")
    for name in ("accuracy", "output", "impurity"):
        print(f"| {name} | {spearmanr(-found.sid, getattr(found, name)).statistic:.2f} |")


if __name__ == "__main__":
    as_script(main)
