"""Monte Carlo estimates of a layer's column norms, deviations and gradients."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .control import Control
from .couplings import CoupledSums, Couplings, products_kept
from .differences import Differences
from .halves import HalfSums, Halves
from .jacobian_moments import JacobianMoments
from .journal import Journal, Sums
from .network import Network
from .rows import as_rows

#: Relative difference that rounding may cause between two products with the same Jacobian.
LINEAR_TOLERANCE = 1e-4
#: Factor on the variance of deviations from which a control does harm, beyond what few noise samples show by chance.
MISLED = 2.0


@dataclass
class LayerProbe:
    """Feature of one layer on a block of samples, with the random streams that probe it.

    Parameters
    ----------
    network
        Network with this layer as its only output.
    x
        Analysis input of the S samples, (S, *shape), in the model's units.
    unit
        Standardized unit in the model's units, broadcastable to x.
    rows
        Rows of the samples in the network's conditioning inputs, (S,).
    noise, probes
        Random streams on x's device: input noise, and output probes.
    batch_size
        Maximum number of inputs evaluated at once.
    journal
        Records what loops over noise samples have accumulated.
    precision
        Precision in which the change caused by noise may be carried through the network.

    Attributes
    ----------
    differences
        Carries that change in bfloat16; None: the network is evaluated.
    center
        The feature at the samples, (S, m).
    n_vjps
        Number of vector-Jacobian products so far.
    """

    network: Network
    x: Tensor
    unit: Tensor
    rows: Tensor
    noise: torch.Generator
    probes: torch.Generator
    batch_size: int
    journal: Journal = field(default_factory=Journal)
    precision: str = "float32"
    differences: Differences | None = field(default=None, init=False)
    n_vjps: int = field(default=0, init=False)
    center: Tensor = field(init=False)

    def __post_init__(self) -> None:
        with torch.no_grad():
            (self.center,) = self.network(self.x, self.rows)

    @property
    def samples(self) -> int:
        """Number of samples S."""
        return len(self.x)

    @property
    def units(self) -> int:
        """Number of input units n."""
        return self.x[0].numel()

    def at(self, index: Tensor) -> LayerProbe:
        """Probe of a subset of the samples; it draws from the same random streams."""
        x, rows = self.x[index], self.rows[index]
        part = dataclasses.replace(self, x=x, rows=rows)
        part.differences = None if self.differences is None else self.differences.at(index)
        return part

    def in_float32(self) -> LayerProbe:
        """Probe that evaluates the network, from the same random streams."""
        return self if self.differences is None else dataclasses.replace(self)

    @property
    def streams(self) -> tuple[torch.Generator, torch.Generator]:
        """The random streams."""
        return self.noise, self.probes

    def batches(
        self, count: int, sigma: Tensor, totals: Sequence[Tensor] = (), parts: Sequence[list[Tensor]] = ()
    ) -> Iterator[int]:
        """Split a number of noise samples into batches.

        Parameters
        ----------
        count
            Number of noise samples.
        sigma
            Noise scales that the loop depends on.
        totals, parts
            What the loop changes; see :class:`.journal.Sums`.
        """
        size = max(1, self.batch_size // self.samples)
        for some in self.journal.steps(count, size, Sums(totals, parts), self, sigma):
            yield len(some)

    def perturb(self, sigma: Tensor, draws: int) -> tuple[Tensor, Tensor]:
        """Draw standardized perturbations (draws, S, n); return them and the perturbed inputs (draws * S, *shape)."""
        delta = torch.randn((draws, self.samples, self.units), generator=self.noise, device=self.x.device)
        delta = delta * sigma
        return delta, (self.x + delta.reshape(draws, *self.x.shape) * self.unit).flatten(0, 1)

    def evaluate(self, x: Tensor) -> Tensor:
        """Compute the feature (draws * S, m) of perturbed inputs."""
        (feature,) = self.network(x, self.rows.repeat(len(x) // self.samples))
        return feature

    def deviations(self, sigma: Tensor, draws: int) -> Tensor:
        """``||h(x + sigma*delta) - f||^2`` for fresh noise samples delta.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardized.
        draws
            Number of noise samples.

        Returns
        -------
        Tensor
            (draws, S).
        """
        parts: list[Tensor] = []
        with torch.no_grad():
            for count in self.batches(draws, sigma, parts=[parts]):
                _, x = self.perturb(sigma, count)
                parts.append(self.deviation(self.change(x)))
        return torch.cat(parts)

    def change(self, x: Tensor) -> Tensor:
        """``h(x) - f`` of perturbed inputs (draws * S, *shape), (draws * S, m)."""
        if self.differences is None:
            feature = self.evaluate(x)
            return (feature.reshape(-1, self.samples, feature.shape[1]) - self.center).flatten(0, 1)
        return self.differences((x.reshape(-1, *self.x.shape) - self.x).flatten(0, 1))

    def deviation(self, change: Tensor) -> Tensor:
        """``||change||^2`` of changes (draws * S, m), (draws, S)."""
        wide = change if self.differences is None else change.float()
        return wide.square().sum(1).reshape(-1, self.samples)

    def deviations_at(self, delta: Tensor) -> Tensor:
        """``||h(x + delta) - f||^2`` around one sample for standardized perturbations (B, n), (B,)."""
        with torch.no_grad():
            x = self.x + delta.reshape(-1, *self.x.shape[1:]) * self.unit
            return self.deviation(self.change(x))[:, 0]

    def differentiable_deviation(self, sigma: Tensor, draws: int) -> Tensor:
        """``E||h(x + sigma*delta) - f||^2`` over fresh noise samples, (S,), differentiable in sigma, (S, n)."""
        _, x = self.perturb(sigma, draws)
        self.n_vjps += draws
        return self.deviation(self.change(x)).mean(0)

    def column_norms(self, sigma: Tensor, draws: int, per_noise: int) -> tuple[Halves, Tensor, Couplings | None]:
        """``E ||J_i(x + sigma*delta)||^2`` by vector-Jacobian products, ``E_u (J^T u)_i^2`` with random signs u.

        Signs have the least variance among probes with independent entries. Several probes per noise sample share a
        forward pass; features with fewer entries than probes are probed with unit vectors, which give exact norms.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardized.
        draws, per_noise
            Number of noise samples (even), and of probes for each.

        Returns
        -------
        Halves
            Two independent estimates of the squared column norms.
        Tensor
            The deviations, (draws, S).
        Couplings or None
            From some of the products, and one more for each noise sample, along the change that it causes.
        """
        sums = HalfSums(sigma)
        kept = products_kept(draws, per_noise, self.x, self.center.shape[1])
        random: list[Tensor] = []
        along: list[Tensor] = []
        parts: list[Tensor] = []
        for count in self.batches(draws, sigma, sums.totals, [random, along, parts]):
            _, x = self.perturb(sigma, count)
            x.requires_grad_(True)
            change = self.change(x)
            norms = torch.zeros(count, self.samples, self.units, dtype=sigma.dtype, device=sigma.device)
            for i, u in enumerate(cotangents(change, per_noise, self.probes)):
                product = self._product(change, x, u)
                norms += product.square()
                if i < kept:
                    random.append(product.to(sigma))
            self.n_vjps += count * min(per_noise, change.shape[1])
            if kept:
                along.append(self._product(change, x, unit_power(change.detach())).to(sigma))
                self.n_vjps += count
            sums.add(norms / (per_noise if per_noise < change.shape[1] else 1))
            parts.append(self.deviation(change.detach()))
        return sums.means(), torch.cat(parts), Couplings.of(random, along, self.x.shape[1:])

    def _product(self, change: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """``J^T u``, standardized, (draws, S, n); the graph is kept."""
        (product,) = torch.autograd.grad(change, x, u, retain_graph=True)
        return (product * self.unit).reshape(-1, self.samples, self.units)

    def changes(self, sigma: Tensor, draws: int) -> Tensor:
        """``h(x + sigma*delta) - f`` for fresh noise samples, (draws, S, m)."""
        parts: list[Tensor] = []
        with torch.no_grad():
            for count in self.batches(draws, sigma, parts=[parts]):
                _, x = self.perturb(sigma, count)
                parts.append(self.change(x).to(sigma).reshape(count, self.samples, -1))
        return torch.cat(parts)

    def mean_products(self, sigma: Tensor, directions: Tensor, draws: int) -> Tensor:
        """``E[J(x + sigma*delta)^T u]`` for directions u of the feature.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardized.
        directions
            (S, k, m).
        draws
            Number of noise pairs of opposite sign to average over.

        Returns
        -------
        Tensor
            Standardized, (S, k, n).
        """
        total = torch.zeros(*directions.shape[:2], self.units, dtype=sigma.dtype, device=sigma.device)
        for count in self.batches(draws, sigma, [total]):
            _, plus = self.perturb(sigma, count)
            for x in (plus, self._opposite(plus)):
                x.requires_grad_(True)
                change = self.change(x)
                for k in range(directions.shape[1]):
                    u = directions[:, k].repeat(count, 1).contiguous().to(change)
                    (product,) = torch.autograd.grad(change, x, u, retain_graph=True)
                    total[:, k] += (product * self.unit).reshape(count, self.samples, -1).sum(0)
                self.n_vjps += count * directions.shape[1]
        return total / (2 * draws)

    def jacobian_moments(self, sigma: Tensor, draws: int) -> JacobianMoments:
        """Moments of the Jacobian under noise, from all of its rows: for features with few entries.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardized.
        draws
            Number of noise samples.

        Returns
        -------
        JacobianMoments
            Standardized, of all S samples; each noise sample takes m vector-Jacobian products.
        """
        rows = torch.zeros(self.samples, self.center.shape[1], self.units, dtype=sigma.dtype, device=sigma.device)
        energy, total = torch.zeros_like(sigma), torch.zeros_like(sigma[:, 0])
        growth = torch.zeros_like(total)
        for count in self.batches(draws, sigma, [rows, energy, total, growth]):
            delta, x = self.perturb(sigma, count)
            x.requires_grad_(True)
            change = self.change(x)
            moved = change.detach().reshape(count, self.samples, -1).to(sigma)
            for k, u in enumerate(unit_vectors(change)):
                (product,) = torch.autograd.grad(change, x, u, retain_graph=True)
                row = (product * self.unit).reshape(count, self.samples, -1)
                rows[:, k] += row.sum(0)
                energy += row.square().sum(0)
                growth += (moved[..., k] * (row * delta).sum(-1)).sum(0)
            total += moved.square().sum((0, 2))
            self.n_vjps += count * change.shape[1]
        return JacobianMoments(rows / draws, energy / draws, total / draws, growth / draws, draws)

    def _opposite(self, x: Tensor) -> Tensor:
        """Inputs (draws * S, *shape) with the opposite sign of noise."""
        return (2 * self.x - x.detach().reshape(-1, *self.x.shape)).flatten(0, 1)

    def gradients(self, sigma: Tensor, draws: int, control: Control | None = None) -> tuple[Halves, Tensor]:
        """``sigma_i dL/dsigma_i`` of the feature deviation ``L = E||h(x + sigma*delta) - f||^2``, and L itself.

        With a control variate, noise is drawn in pairs of opposite sign, which cancels even terms, and the control's
        contribution to both estimates is replaced by its mean.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardized.
        draws
            Number of noise samples (a multiple of four).
        control
            Linear model of the layer.

        Returns
        -------
        Halves
            Two independent estimates of the logarithmic gradient.
        Tensor
            The deviations, (draws, S); with a control, one per pair, (draws / 2, S).
        """
        if control is not None:
            return self._controlled(sigma, draws // 2, control)
        sums = HalfSums(sigma)
        parts: list[Tensor] = []
        for count in self.batches(draws, sigma, sums.totals, [parts]):
            delta, x = self.perturb(sigma, count)
            product, deviation = self._pathwise(x, count)
            sums.add(2 * delta * product)
            parts.append(deviation)
        return sums.means(), torch.cat(parts)

    def coupled_gradients(self, sigma: Tensor, draws: int, couplings: Couplings) -> tuple[CoupledSums, Tensor]:
        """Gradients as in :meth:`gradients` with what couplings make of the same noise, and the deviations (draws, S).

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardized.
        draws
            Number of noise samples, which must be even.
        couplings
            Couplings of the units.
        """
        sums = CoupledSums(couplings, sigma)
        parts: list[Tensor] = []
        for count in self.batches(draws, sigma, sums.totals, [parts]):
            delta, x = self.perturb(sigma, count)
            product, deviation = self._pathwise(x, count)
            sums.add(2 * delta * product, delta)
            parts.append(deviation)
        return sums, torch.cat(parts)

    def _controlled(self, sigma: Tensor, pairs: int, control: Control) -> tuple[Halves, Tensor]:
        found, modeled = HalfSums(sigma), HalfSums(sigma)
        shared, power = sigma.new_zeros(self.samples), sigma.new_zeros(self.samples)
        deviations: list[Tensor] = []
        energies: list[Tensor] = []
        totals = *found.totals, *modeled.totals, shared, power
        for count in self.batches(pairs, sigma, totals, [deviations, energies]):
            delta, plus = self.perturb(sigma, count)
            minus = self._opposite(plus)
            above, first = self._pathwise(plus, count)
            below, second = self._pathwise(minus, count)
            odd = (above - below) / 2
            energy, linear = control.apply(delta)
            found.add(2 * delta * odd)
            modeled.add(2 * delta * linear)
            shared += (odd * linear).sum((0, 2))
            power += linear.square().sum((0, 2))
            deviations.append((first + second) / 2)
            energies.append(energy)
        beta = shared / power.clamp(min=torch.finfo(power.dtype).tiny)
        known = 2 * sigma.square() * control.norms
        halves = (
            estimate - beta[:, None] * (model - known) for estimate, model in zip(found.both, modeled.both, strict=True)
        )
        return Halves(*halves), less_control(torch.cat(deviations), torch.cat(energies), known.sum(1) / 2)

    def modeled_deviations(self, sigma: Tensor, draws: int, control: Control) -> tuple[Tensor, Tensor]:
        """Deviations as in :meth:`deviations`, and what a linear model makes of the same noise, each (draws, S)."""
        deviations: list[Tensor] = []
        energies: list[Tensor] = []
        with torch.no_grad():
            for count in self.batches(draws, sigma, parts=[deviations, energies]):
                delta, x = self.perturb(sigma, count)
                deviations.append(self.deviation(self.change(x)))
                energies.append(control.apply(delta)[0])
        return torch.cat(deviations), torch.cat(energies)

    def controlled_deviations(self, sigma: Tensor, pairs: int, control: Control) -> Tensor:
        """Deviations as in :meth:`deviations`, averaged over pairs and corrected by a control variate, (pairs, S)."""
        deviations: list[Tensor] = []
        energies: list[Tensor] = []
        with torch.no_grad():
            for count in self.batches(pairs, sigma, parts=[deviations, energies]):
                delta, plus = self.perturb(sigma, count)
                both = self.deviation(self.change(plus)) + self.deviation(self.change(self._opposite(plus)))
                deviations.append(both / 2)
                energies.append(control.apply(delta)[0])
        mean = (sigma.square() * control.norms).sum(1)
        return less_control(torch.cat(deviations), torch.cat(energies), mean)

    def is_linear(self, sigma: Tensor, draws: int) -> bool:
        """Whether the feature is linear within the noise at every sample, judged by fresh noise samples.

        If it is, the gradient ``J~^T d`` at a noisy input equals ``J^T d`` at the sample, d being the change that the
        noise causes.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardized.
        draws
            Number of noise samples.
        """
        linear = torch.tensor(True, device=sigma.device)
        for count in self.batches(draws, sigma, [linear]):
            _, noisy = self.perturb(sigma, count)
            noisy.requires_grad_(True)
            still = self.x.repeat(count, *([1] * (self.x.dim() - 1))).requires_grad_(True)
            moved, feature = self.evaluate(noisy), self.evaluate(still)
            change = moved.detach() - feature.detach()
            (there,) = torch.autograd.grad(moved, noisy, change)
            (here,) = torch.autograd.grad(feature, still, change)
            self.n_vjps += 2 * count
            apart = as_rows(((there - here) * self.unit).square()).sum(1)
            size = as_rows((here * self.unit).square()).sum(1)
            linear &= (apart <= LINEAR_TOLERANCE**2 * size).all()
            if not bool(linear):
                break
        return bool(linear)

    def _pathwise(self, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """``J~^T (h(x) - f)``, standardized, (draws, S, n), and ``||h(x) - f||^2``, (draws, S)."""
        x.requires_grad_(True)
        change = self.change(x)
        (product,) = torch.autograd.grad(change, x, change.detach())
        self.n_vjps += count
        standardized = (product * self.unit).reshape(count, self.samples, -1)
        return standardized, self.deviation(change.detach())


def less_control(deviations: Tensor, energies: Tensor, mean: Tensor) -> Tensor:
    """Deviations (pairs, S) minus the part explained by a control's energies (pairs, S) of known mean (S,).

    The factor of the energies is common to all samples. Samples whose deviations vary far less without the control, as
    where its Jacobian is far from theirs, do without.
    """
    scale = mean.clamp(min=torch.finfo(mean.dtype).tiny)
    moved, energy = deviations / scale, energies / scale
    moved, energy = moved - moved.mean(0), energy - energy.mean(0)
    factor = (moved * energy).sum() / energy.square().sum().clamp(min=torch.finfo(mean.dtype).tiny)
    less = deviations - factor * (energies - mean)
    return torch.where(less.var(0) < MISLED * deviations.var(0), less, deviations)


def unit_power(change: Tensor) -> Tensor:
    """Changes (B, m), scaled to a mean square of one like random signs; 0 stays 0."""
    power = change.square().mean(1, keepdim=True)
    return change / power.sqrt().clamp(min=torch.finfo(change.dtype).tiny)


def cotangents(feature: Tensor, probes: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Random signs (B, m); the unit vectors if m <= probes."""
    return unit_vectors(feature) if feature.shape[1] <= probes else random_signs(feature, probes, generator)


def unit_vectors(feature: Tensor) -> Iterator[Tensor]:
    """The m unit vectors for features (B, m), each repeated over the batch."""
    return (unit_vector(feature, j) for j in range(feature.shape[1]))


def unit_vector(feature: Tensor, j: int) -> Tensor:
    """One unit vector for features (B, m), repeated over the batch."""
    vector = torch.zeros_like(feature)
    vector[:, j] = 1
    return vector


def random_signs(feature: Tensor, probes: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Draw random signs for features (B, m), ``probes`` times."""
    return (random_sign(feature, generator) for _ in range(probes))


def random_sign(feature: Tensor, generator: torch.Generator) -> Tensor:
    """Draw random signs for features (B, m)."""
    table = _signs_of_bytes(feature.device).to(feature.dtype)
    words = torch.empty(math.ceil(feature.numel() / 64), dtype=torch.int64, device=feature.device)
    words.random_(-(2**63), None, generator=generator)
    signs = table.index_select(0, words.view(torch.uint8).int())
    return signs.flatten()[: feature.numel()].view(feature.shape)


@functools.cache
def _signs_of_bytes(device: torch.device) -> Tensor:
    """Eight signs per byte, (256, 8): one random bit per sign is several times as fast as one random number."""
    bits = (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1
    return 2.0 * bits - 1
