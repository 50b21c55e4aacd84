"""The reconstruction uncertainty as a metric of an analysis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..archive.format import PROVEN, Field, Metric, mark_code
from ..errors import UsageError
from ..metrics.budget import inputs_at_once
from ..metrics.reconstruction import Reconstruction
from ..metrics.reference import solve_ru_by_gradient
from ..metrics.ru import Problem, solve_ru
from .blocks import Block, Cells
from .decoders import Ready
from .job import Job
from .proof import proof


class Ru:
    """Reconstruction uncertainty: ``0.5 log E(mu_i - xhat_i)^2 + C`` at the constraint of the information discarding.

    Parameters
    ----------
    job
        Network and samples, with decoders.
    """

    metric: ClassVar[Metric] = Metric(
        "ru",
        "reconstruction uncertainty",
        fields=(
            *PROVEN,
            Field("decoder_error", "<f8", "1", "decoder's squared error on validation samples over their variance"),
        ),
    )
    uses_normalizer: ClassVar[bool] = True

    def __init__(self, job: Job) -> None:
        if job.decoders is None:
            raise UsageError("metric 'ru' needs decoders; name a folder to keep them in")
        self.job, self.center = job, job.decoders.center
        self.recipe: Mapping[str, object] = job.decoders.recipe
        self.trained = job.decoders.of(job)
        job.decoders = Ready(self.trained, self.center, self.recipe)
        for trained in self.trained:
            trained.decoder.to(job.device)

    def cells(self, block: Block) -> Cells:
        """Solve one layer around a block of samples."""
        job, trained = self.job, self.trained[block.layer]
        feature, start, target = block.feature(), block.start, block.target
        decoder = trained.decoder

        def reconstruct(x: Tensor, rows: Tensor) -> Tensor:
            shown: Tensor = decoder(feature.network(x, rows)[0])
            return shown

        held = feature.network.module, decoder
        feature.chunk = min(feature.chunk, inputs_at_once(reconstruct, block.x, block.rows, job.memory, *held))
        solver = solve_ru_by_gradient if job.settings.solver == "reference" else solve_ru
        reconstruction = Reconstruction(feature, decoder, self.center)
        solution = solver(Problem.of(reconstruction, start, target, job.tie, job.settings.cap, block.units))
        certificate, entropy = solution.certificate, solution.entropy
        count = len(block.indices)
        value = block.mean(entropy)
        proven = proof(certificate, value, ~(target > 0))
        if trained.error >= 1:
            # A decoder that is no better than the mean sample recovers nothing; it says nothing about the layer.
            proven["mark"] = torch.full_like(proven["mark"], mark_code("decoder"))
            proven["converged"] = torch.zeros_like(proven["converged"])
        values = {
            "value": value,
            "stderr": solution.stderr,
            **proven,
            "resolution_alpha": torch.full_like(value, torch.nan),
            "probes": torch.full((count,), solution.probes),
            "iterations": torch.full((count,), solution.iterations),
            "capped": solution.capped,
            "decoder_error": torch.full((count,), trained.error, dtype=torch.float64),
        }
        return Cells(values, entropy.reshape(count, *job.shape))
