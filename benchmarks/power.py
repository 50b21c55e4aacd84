"""Check the range of ``onnxinfo power`` on measured values: numbers from some samples against that from all.

    python benchmarks/power.py result.h5 --some 10

Values over real samples are not normal, which the range assumes. For random subsets of a run's samples, this counts how
often the range contains the number of samples that the spread over all samples gives, for each pair of layers.
"""

from __future__ import annotations

import argparse

import numpy as np

import onnxinfo
from onnxinfo.models.studies.script import as_script

DIFFERENCE = 0.05


def main() -> None:
    """Print, for each pair of layers, the number from all samples and the fraction of ranges that contain it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive")
    parser.add_argument("--some", type=int, default=10, help="samples of a subset")
    parser.add_argument("--subsets", type=int, default=200)
    arguments = parser.parse_args()
    whole = onnxinfo.power(arguments.archive, DIFFERENCE)
    generator = np.random.default_rng(0)
    inside = np.zeros(len(whole))
    numbers = np.zeros((len(whole), arguments.subsets))
    for i in range(arguments.subsets):
        chosen = generator.choice(whole[0]["n"], arguments.some, replace=False)
        rows = onnxinfo.power(arguments.archive, DIFFERENCE, samples=sorted(chosen.tolist()))
        inside += [row["low"] <= all_of["needed"] <= row["high"] for row, all_of in zip(rows, whole, strict=True)]
        numbers[:, i] = [row["needed"] for row in rows]
    for row, found, each in zip(whole, inside / arguments.subsets, numbers, strict=True):
        quartiles = np.quantile(each, [0.25, 0.75]).round().astype(int).tolist()
        pair = f"{row['layer']}, {row['other_layer']}"
        print(f"{pair}: {row['needed']} from all {row['n']}; {quartiles} from {arguments.some}; inside {found:.2f}")


if __name__ == "__main__":
    as_script(main)
