"""Check that the tests that guard the certificate notice when it is broken.

    python benchmarks/mutants.py [--only WORD]

Each mutant changes one place in a temporary copy of the package, and the named test files run against it until the
first failure. A mutant that no test detects has survived, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from onnxinfo.models.studies.script import as_script

ROOT = Path(__file__).resolve().parents[1]
#: Files that a copy needs to run the tests.
COPIED = ("onnxinfo", "cli", "models", "benchmarks", "tests", "pyproject.toml")
LIMIT_S = 600


class Mutant(NamedTuple):
    """A change that tests must detect: in a file, one text is replaced by another; and the tests to run."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


CERTIFICATE, MEASURED, SID = "metrics/certificate.py", "metrics/measured.py", "metrics/sid.py"
ASCENT, CERTIFICATION, CONSTRAINT = "metrics/ascent.py", "metrics/certification.py", "metrics/constraint.py"
CLOSED, FOUND, GROWTH = "metrics/closed_form.py", "metrics/found.py", "metrics/growth.py"
ROUNDING, LEAP, SINGLY = "metrics/rounding.py", "metrics/leap.py", "metrics/singly.py"
COUPLINGS = "metrics/couplings.py"
CELLS, STIFF, PRECISION = ("certificate", "sabotage"), ("stiff",), ("noise_precision",)
EXACT = ("unknown_numbers", "known_answers")
MUTANTS = (
    # The verdict: whether constraint and optimality are known.
    Mutant(CERTIFICATE, "RATIO_TOLERANCE, RATIO_LIMIT = 0.05, 0.1", "RATIO_TOLERANCE, RATIO_LIMIT = 0.5, 0.1", CELLS),
    Mutant(CERTIFICATE, "RATIO_TOLERANCE, RATIO_LIMIT = 0.05, 0.1", "RATIO_TOLERANCE, RATIO_LIMIT = 0.05, 1.0", CELLS),
    Mutant(CERTIFICATE, "return self.gap <= GAP_TOLERANCE", "return self.gap.isfinite()", CELLS),
    Mutant(CERTIFICATE, "return self.gap <= GAP_TOLERANCE", "return self.saturated | (self.gap <= 0.07)", CELLS),
    Mutant(CERTIFICATE, "return self.met & self.optimal", "return self.optimal", CELLS),
    Mutant(CERTIFICATE, "(off - 2 * stderr <= RATIO_TOLERANCE) & ", "", CELLS),
    Mutant(CERTIFICATE, "(off - 2 * stderr <=", "(off - 4 * stderr <=", CELLS),
    Mutant(CERTIFICATE, "known = saturated | (stderr <= RATIO_TOLERANCE)", "known = True", CELLS),
    Mutant(CERTIFICATE, "saturated, (ratio - 1).clamp(min=0)", "saturated, (ratio - 1).abs()", CELLS),
    Mutant(CERTIFICATE, "MOST_EXPLAINED_GROWTH = 16.0, 32.0", "MOST_EXPLAINED_GROWTH = 1e9, 1e9", CELLS),
    Mutant(CERTIFICATE, "MOST_UNEXPLAINED = 0.25, 1.0", "MOST_UNEXPLAINED = 9.0, 9.0", CELLS),
    Mutant(CERTIFICATE, "ratio).log2() - self.foretold).abs()", "ratio).log2() - self.foretold)", CELLS),
    Mutant(CERTIFICATE, "torch.where(explained, gap, torch.nan)", "gap", CELLS),
    Mutant(CERTIFICATE, "NEARLY_PROVEN = 0.5", "NEARLY_PROVEN = 0.2", CELLS),
    Mutant(CERTIFICATE, "STIFF = 6.0", "STIFF = 1e9", STIFF),
    # The bound.
    Mutant(CERTIFICATE, "CALIBRATION, ERRORS = 1.5, 1.645", "CALIBRATION, ERRORS = 1.0, 1.645", CELLS),
    Mutant(CERTIFICATE, "CALIBRATION, ERRORS = 1.5, 1.645", "CALIBRATION, ERRORS = 1.5, 0.0", CELLS),
    Mutant(CERTIFICATE, "maximum(missing + allowed, seen)", "maximum(missing + allowed, 0 * seen)", CELLS),
    Mutant(CERTIFICATE, "missing = estimate.clamp(min=0) / curvature", "missing = estimate.clamp(min=0)", CELLS),
    Mutant(CERTIFICATE, "of_estimate.square() + of_curvature.square()", "of_estimate.square()", CELLS),
    Mutant(CERTIFICATE, ".sqrt() * wider(len(found.parts))", ".sqrt()", CELLS),
    Mutant(CERTIFICATE, "return 1 + first / freedom", "return 1 - first / freedom", CELLS),
    Mutant(CERTIFICATE, "NEARBY = 0.2", "NEARBY = 1e9", CELLS),
    Mutant(MEASURED, "clamp(min=1) / 4", "clamp(min=1) / 8", CELLS),
    Mutant(MEASURED, "products - products.diagonal(dim1=1, dim2=2).diag_embed()", "products", CELLS),
    Mutant(MEASURED, "return power, 2 * (error", "return power, (error", CELLS),
    # Filter, step, polish and rescaling of the solver.
    Mutant(CERTIFICATE, "return scales * (-(ratio", "return 1.1 * scales * (-(ratio", CELLS),
    Mutant(CERTIFICATE, "log() / exponent).clamp(-1.0, 1.0)", "log() / 2).clamp(-1.0, 1.0)", CELLS),
    Mutant(CERTIFICATE, "log() / exponent).clamp(-1.0, 1.0)", "log() / exponent)", CELLS),
    Mutant(CERTIFICATION, "rescale_to_constraint(scales, deviations, problem.target, exponent), s", "scales, s", CELLS),
    Mutant(ASCENT, "weight * (correction - damping * half", "weight * (correction + damping * half", CELLS),
    Mutant(ASCENT, "(2 / (self.steps + 2)).clamp(min=memory)", "(2 / (self.steps + 2))", CELLS),
    Mutant(ASCENT, "(2 / (self.steps + 2)).clamp(min=memory)", "(0 * self.steps + memory)", CELLS),
    Mutant(CONSTRAINT, "slope = (now - before) / moved", "slope = 0 * now", ("far",)),
    Mutant(CONSTRAINT, "torch.where(slope > LEAST_EXPONENT, slope", "torch.where(slope == slope, slope", ("far",)),
    Mutant(CONSTRAINT, "slope.clamp(max=MOST_EXPONENT)", "slope", ("far",)),
    Mutant(CONSTRAINT, "[far].log().nanmean(1)", "[far].log().mean(1)", ("far",)),
    Mutant(ASCENT, "(self.steps == 1)[:, None], cor", "(self.steps >= 1)[:, None], cor", ("far",)),
    Mutant(ASCENT, "maximum(self.curvature, _overshot(", "maximum(0 * self.curvature, _overshot(", ("far",)),
    Mutant(ASCENT, "torch.where(size > 0, found, 1.0)", "found", ("far",)),
    Mutant(ASCENT, " and int(state.steps.min()) >= LEAST_STEPS", "", STIFF),
    Mutant(ASCENT, "part.step(problem.at(near), [fresh.at(near)], memory)", "pass", ("far",)),
    Mutant(ASCENT, "torch.where(far, torch.nan, gain)", "gain", ("far",)),
    Mutant(ASCENT, "LEAST_DAMPING = 0.06", "LEAST_DAMPING = 0.15", STIFF),
    Mutant(ASCENT, "not state.is_stiff and", "", STIFF),
    Mutant(GROWTH, "4 * middle + end) / 6", "4 * middle + middle) / 6", STIFF),
    Mutant(ASCENT, "self.scales * change.exp()", "self.scales", CELLS),
    Mutant(ASCENT, "1 + torch.maximum(own, all_) / 2", "1 + all_ / 2", CELLS),
    Mutant(SID, "(~coarse).nonzero()", "torch.ones_like(coarse).nonzero()", CELLS),
    Mutant(GROWTH, "GROWTH_STDERR = 8, 32, 0.1", "GROWTH_STDERR = 8, 32, 1e9", CELLS),
    Mutant(ROUNDING, "mean(0) > MOST_SMOOTH * size**2 * smooth).any()", "mean(0) > 1e9).any()", CELLS),
    Mutant(FOUND, "gained + known >= 0)", "known >= 0)", CELLS),
    Mutant(FOUND, "gained + known >= 0)", "gained >= 0)", CELLS),
    Mutant(FOUND, "before.converged ^ now.converged", "before.converged & now.converged", CELLS),
    Mutant(FOUND, "better, ~before.met)", "better, True)", CELLS),
    Mutant(SID, "change.any(1) | nearly)", "change.any(1))", CELLS),
    Mutant(SID, "left &= certified.certificate.met & (", "left &= (", CELLS),
    # The closed form of linear layers.
    Mutant(CLOSED, "CLOSED_STDERR = 0.01", "CLOSED_STDERR = 0.025", EXACT),
    Mutant(CLOSED, "off <= 4 * stderr", "off <= 400 * stderr", EXACT),
    Mutant(CERTIFICATE, "saturated) & (saturated | (growth <= MOST_GROWTH))", "saturated)", EXACT),
    Mutant("metrics/mean_jacobian.py", "feature.units <= DIRECTIONS", "False", EXACT),
    # Events that the noise hardly reaches.
    Mutant("metrics/rare.py", "rare / happens / 4 * known_to", "0 * known_to", ("rare_kinks",)),
    Mutant("metrics/rare.py", "known_to = (draws * rare).clamp(min=1).rsqrt()", "known_to = 0.1", ("rare_kinks",)),
    Mutant(CLOSED, "widened(problem, scales, 2.0), draws", "problem.sigma(scales), LINEAR_NOISES", ("linearity",)),
    Mutant(CERTIFICATE, "stderr = torch.maximum(stderr, unseen)", "pass", ("rare_kinks",)),
    Mutant(CERTIFICATE, "relative = self.ratio_stderr / self.ratio.clamp", "relative = self.ratio_stderr # ", CELLS),
    Mutant(SID, "changes(at_cap, 1).any(2)[0]", "changes(at_cap, 1).square().any(2)[0]", ("known_answers",)),
    Mutant("metrics/misplaced.py", "/ (share * (2 - share))", "/ torch.ones_like(share)", ("misplaced",)),
    # Single units that saturate.
    Mutant(CERTIFICATION, ".or_else(raise_singly(problem, scales, exponent))", "", ("singly",)),
    Mutant(SINGLY, "self.gain + self.price[:, None] * left.log() > 0", "self.gain > 0", ("singly",)),
    Mutant(SINGLY, "(others / exponent)[:, None]", "(0 * exponent)[:, None]", ("singly",)),
    Mutant(SINGLY, "& (order.argsort(1) <= last[:, None])", "", ("singly",)),
    Mutant(SINGLY, "rescaled)) * counted", "rescaled))", ("rounds",)),
    Mutant(SINGLY, "draws * feature.samples))):", "1))):", ("rounds",)),
    Mutant(SINGLY, "(len(sigma) * feature.samples))):", "1)):", ("rounds",)),
    # What a round hands to the next, and steps to the cap.
    Mutant(CERTIFICATION, "passes = [each.divided(off) for each in passes]", "", ("misplaced",)),
    Mutant(FOUND, "torch.where(found & ~", "torch.where(self.torn & ~", ("misplaced",)),
    Mutant(SID, "here.free(certified.scales) | here.free(part.scales)", "here.free(part.scales)", ("rounds",)),
    Mutant(CONSTRAINT, "OFF = 0.03", "OFF = 0.001", ("rounds",)),
    Mutant(CONSTRAINT, "OFF = 0.03", "OFF = 1.0", ("rounds",)),
    Mutant(LEAP, "share = shares[best]", "share = shares[best]; feature.noise.set_state(state)", ("rounds",)),
    Mutant(LEAP, "(step.sure_gain > WORTH_A_STEP)", "(step.sure_gain > 0)", ("rounds",)),
    Mutant(LEAP, "[:, None], change, 0.0)) * counted", "[:, None], change, 0.0))", ("rounds",)),
    Mutant("metrics/probe.py", "            if not bool(linear):\n                break\n", "", ("rounds",)),
    # RU: the error of exact values, features that shrink under noise, kinks, and decoders trained together.
    Mutant("metrics/reconstruction.py", "PARTS = 16", "PARTS = 4", ("ru_errors",)),
    Mutant("metrics/ru.py", "torch.where(saturated, WAKING * self", "torch.where(saturated, 0 * self", ("ru_errors",)),
    Mutant("metrics/ru.py", "ratio_stderr, saturated) & steady", "ratio_stderr, saturated)", ("ru_errors",)),
    Mutant("metrics/decoder_training.py", "use) for _ in self.noise]", "use)] * len(self.noise)", ("unit_mask",)),
    # The precision of the passes.
    Mutant(CERTIFICATION, " * factor_to_float32(feature, problem.sigma(scales), problem.effort)", "", PRECISION),
    Mutant("metrics/noise_precision.py", "OF_GRADIENT = 0.03, 0.15", "OF_GRADIENT = 9.0, 0.15", PRECISION),
    Mutant("metrics/noise_precision.py", " and relative_time() < FASTER", "", PRECISION),
    Mutant("metrics/noise_precision.py", "shortest[1] / shortest[0]", "shortest[0] / shortest[1]", PRECISION),
    # What removes noise from gradients must not change their mean.
    Mutant(COUPLINGS, "effects -= self._means", "pass", ("couplings",)),
    Mutant(COUPLINGS, "weights[1:] + weights[:1]", "weights", ("couplings",)),
    Mutant(COUPLINGS, "weights[1:] + weights[:1]", "[weights[i ^ 1] for i in range(4)]", ("couplings",)),
    Mutant(COUPLINGS, "torch.where(weights[:, :, None] == 0, 0.0, weights", "(weights", ("couplings",)),
    Mutant("metrics/problem.py", "few = self.couplings is not None and self", "few = self", ("many_units",)),
    Mutant("metrics/problem.py", " and self.effort == self.passes", "", ("many_units",)),
    Mutant(COUPLINGS, "explained[:, None] > 0", "explained[:, None] > -1e9", ("couplings",)),
    Mutant(COUPLINGS, "self.random.square().mean(1), self", "self.along.square().mean(1), self", ("couplings",)),
    Mutant(COUPLINGS, "MOST_BYTES = 16, 2**25", "MOST_BYTES = 16, 2**30", ("couplings",)),
    Mutant(COUPLINGS, "powers / powers[:, :1, :1].clamp(min=tiny)", "powers", ("couplings",)),
    Mutant("metrics/network.py", "math.ceil(SURELY_DIFFERENT / entries)", "1", ("network",)),
    Mutant("metrics/shrinkage.py", "(a * b.conj()).real", "(a * a.conj()).real", ("shrinkage", *CELLS)),
    # The marks, and statistics over cells.
    Mutant("analysis/proof.py", '("gap", ~certificate.optimal),', "", CELLS),
    Mutant("analysis/proof.py", '("ratio", ~certificate.met),', "", CELLS),
    Mutant("analysis/proof.py", "coarse & ~certificate.saturated", "coarse", CELLS),
    Mutant("analysis/linearization_store.py", "_probes[where].max()", "_probes[where].min()", ("starts",)),
    Mutant("metrics/contrast.py", " * (DRAWS // 2)", "", ("contrast", "foreground")),
    Mutant("metrics/contrast.py", "CALIBRATION = 1.2", "CALIBRATION = 0.8", ("contrast",)),
    Mutant("metrics/contrast.py", "tie.expand(tie.sum(weights) / tie.size)", "weights", ("contrast",)),
    Mutant("archive/means.py", "np.maximum(n - 1, 1)", "np.maximum(n, 1)", ("means",)),
    Mutant("archive/means.py", 'np.where(done, cells["value"]', 'np.where(converged, cells["value"]', ("means",)),
    Mutant("archive/means.py", "both = done &", 'both = done & first["converged"] & second["converged"] &', ("means",)),
)  # fmt: skip


def prepare(folder: Path) -> None:
    """Copy the package and its tests, laid out as they are installed."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for name in ("cli", "models"):
        inside = folder / "onnxinfo" / name
        if not inside.exists():
            inside.symlink_to(f"../{name}")


def notices(folder: Path, tests: tuple[str, ...]) -> bool:
    """Whether one of the test files fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    command += [str(path.relative_to(ROOT)) for name in tests for path in sorted(ROOT.glob(f"tests/**/test_{name}.py"))]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest could not run {' '.join(command)}:\n{done.stdout.decode()[-2000:]}")
    return done.returncode == 1


def main() -> None:
    """Print the fate of each mutant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutants whose file or text contains this word")
    only = parser.parse_args().only
    chosen = [mutant for mutant in MUTANTS if any(only in part for part in (mutant.file, mutant.old, mutant.new))]
    survived = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for tests in sorted({mutant.tests for mutant in chosen}):
            if notices(folder, tests):
                raise SystemExit(f"tests {', '.join(tests)} fail as they are; mend them first")
        for mutant in chosen:
            file = folder / "onnxinfo" / mutant.file
            text = file.read_text()
            if text.count(mutant.old) != 1:
                raise SystemExit(
                    f"{mutant.file}: {mutant.old!r} is there {text.count(mutant.old)} times, expected once"
                )
            file.write_text(text.replace(mutant.old, mutant.new))
            died = notices(folder, mutant.tests)
            file.write_text(text)
            survived += not died
            print(
                f"{'died' if died else 'SURVIVED':8} {mutant.file}: {mutant.old} -> {mutant.new or 'nothing'}",
                flush=True,
            )
    print(f"{len(chosen) - survived} of {len(chosen)} mutants died")
    sys.exit(bool(survived))


if __name__ == "__main__":
    as_script(main)
