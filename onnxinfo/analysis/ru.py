"""Reconstruction uncertainty as a metric of an analysis."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..archive.format import PROVEN, Field, Metric, mark_code
from ..config import Config, recipe
from ..metrics.budget import inputs_at_once
from ..metrics.decoder_training import Trained
from ..metrics.reconstruction import Reconstruction
from ..metrics.reference import solve_ru_by_gradient
from ..metrics.ru import Problem, solve_ru
from ..outputs import claim_folder
from .blocks import Cells, Measure, SampleBatch
from .decoders import DecoderCache, decoder_folder, decoder_settings, training_inputs
from .job import Job
from .proof import proof
from .settings import Report


class Ru(Measure):
    """Reconstruction uncertainty: ``0.5 log E(mu_i - xhat_i)^2 + C`` under the constraint of SID.

    Parameters
    ----------
    job
        Network, samples and configuration.
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
        super().__init__(job)
        self.error_reference = job.config.ru.error_reference
        decoders = job.config.ru.decoder
        self._decoders = DecoderCache(
            decoder_folder(job.config, job.output),
            training_inputs(job),
            decoder_settings(decoders, job.config.sid.seed),
        )
        self._decoders.claim(job)
        self._recipe = {**recipe(job.config.ru), **self._decoders.recipe}
        self.trained: list[Trained] = []

    @classmethod
    def claim(cls, config: Config, output: Path) -> None:
        """Check that the folder for decoders is usable."""
        claim_folder(decoder_folder(config, output))

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings that determine the decoders, and the reference of the errors."""
        return self._recipe

    def prepare(self, report: Report) -> None:
        """Load decoders, and train missing ones."""
        self.trained = self._decoders.of(self.job, report)

    @cached_property
    def _placed(self) -> list[Trained]:
        """The decoders on the job's device."""
        for trained in self.trained:
            trained.decoder.to(self.job.device)
        return self.trained

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_decoders"]
        state["trained"] = copy.deepcopy(self.trained)
        for trained in state["trained"]:
            trained.decoder.cpu()
        return state

    def cells(self, batch: SampleBatch) -> Cells:
        """Solve one layer at a batch of samples."""
        job, trained = self.job, self._placed[batch.layer]
        feature, start, target = batch.feature(), batch.linearization, batch.target
        decoder = trained.decoder

        def reconstruct(x: Tensor, rows: Tensor) -> Tensor:
            shown: Tensor = decoder(feature.network(x, rows)[0])
            return shown

        held = feature.network.module, decoder
        feature.batch_size = min(
            feature.batch_size, inputs_at_once(reconstruct, batch.x, batch.rows, job.memory, *held)
        )
        solver = solve_ru_by_gradient if job.settings.solver == "reference" else solve_ru
        reconstruction = Reconstruction(feature, decoder, self.error_reference)
        solution = solver(Problem.of(reconstruction, start, target, job.tie, job.settings.sigma_max, batch.units))
        certificate, entropy = solution.certificate, solution.entropy
        count = len(batch.indices)
        value = batch.mean(entropy)
        proven = proof(certificate, value, ~(target > 0), saturated_output=batch.saturated(feature))
        if trained.error >= 1:
            # A decoder no better than the mean sample recovers nothing; it says nothing about the layer.
            proven["mark"] = torch.full_like(proven["mark"], mark_code("decoder"))
            proven["converged"] = torch.zeros_like(proven["converged"])
        values = {
            "value": value,
            "stderr": solution.stderr,
            **proven,
            "resolution_alpha": torch.full_like(value, torch.nan),
            "probes": solution.probes,
            "iterations": solution.iterations,
            "capped": solution.capped,
            "decoder_error": torch.full((count,), trained.error, dtype=torch.float64),
        }
        return Cells(values, entropy.reshape(count, *job.shape))
