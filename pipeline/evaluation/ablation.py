"""Measures what each part of the model contributes, by leaving out one part at a time.

The trained weights stay the same. Scales, calibration and thresholds are fitted again for
each variant, on the train parts only. Then the variant is scored and evaluated like the
whole model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.forecast.normaliser import NormaliserSpec
from streamgauge.models.forecast.spec import ForecasterSpec
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.training import fit
from streamgauge.pipeline.console.progress import Narrate, progress
from streamgauge.pipeline.data.datasets import NAB_WINDOWS, load
from streamgauge.pipeline.evaluation.detectors import by_model
from streamgauge.pipeline.evaluation.evaluate import judge
from streamgauge.pipeline.evaluation.results import BUDGETS, DetectorResult

ONE_PER_DAY = {1.0: BUDGETS[1.0]}
FOREVER_EVENTS = 1_000_000_000  # more events than any series has
RATE_OF_NO_LEARNING = 1e-9


@dataclass(frozen=True, slots=True)
class Variant:
    """A model with one part left out."""

    name: str
    spec: ForecasterSpec
    #: Network weights are set to 0, so the forecast is that of the ridge skip.
    without_network: bool = False
    #: Policy of the scorer; None for the default.
    policy: ScoringPolicy | None = None


def variants(spec: ForecasterSpec) -> Iterator[Variant]:
    """The whole model, then one variant per part that is left out."""
    yield Variant("whole", spec)
    yield Variant("linear part alone, no GRU", spec, without_network=True)
    yield Variant("no level", replace(spec, level_weight=0.0))
    yield Variant(
        "level by day of the week alone",
        replace(spec, season_parts=1, season_events=FOREVER_EVENTS),
    )
    yield Variant("fast smoothing alone", replace(spec, alphas=(spec.alphas[0],) * 2))
    yield Variant("no smoothing", replace(spec, alphas=(1.0, 1.0)))
    fixed = replace(spec.normaliser, rate_min=RATE_OF_NO_LEARNING)
    yield Variant("statistics frozen", replace(spec, normaliser=fixed))
    yield Variant(
        "learns from rare events too", spec, policy=ScoringPolicy(warmup_events=FOREVER_EVENTS)
    )


def ablate(data: Path, artifact: Path, narrate: Narrate) -> dict[str, DetectorResult]:
    """Evaluate every variant of an artifact that was trained on `data`, by name.

    Args:
        data: a folder with train and test parts.
        artifact: the whole model, as `streamgauge train` wrote it.
        narrate: receives the lines of progress.
    """
    whole = artifacts.load(artifact)
    train, test = load(data, "train"), load(data, "test")
    share = float(whole.manifest["training"]["settings"]["held_out"])
    named = list(variants(whole.forecaster.spec))
    results: dict[str, DetectorResult] = {}
    # Among these variants the preparation depends on the normaliser only.
    prepared: dict[NormaliserSpec, fit.Prepared] = {}
    with progress("ablate", len(named) * test.events, narrate) as advance:
        for variant in named:
            key = variant.spec.normaliser
            if key not in prepared:
                prepared[key] = fit.prepare(train.schema, train.series, variant.spec, share)
            artifact_of_variant = _variant(whole, variant, prepared[key])
            detection = by_model(
                artifact_of_variant, test, ONE_PER_DAY, advance=advance, scoring=variant.policy
            )
            results[variant.name] = judge(
                detection, test, (data / NAB_WINDOWS).is_file(), budgets=ONE_PER_DAY
            )
    return results


def _variant(whole: Artifact, variant: Variant, prepared: fit.Prepared) -> Artifact:
    """`whole` rebuilt as `variant`; it keeps the digest of the whole."""
    network = dict(whole.forecaster.weights)
    if variant.without_network:
        network = {name: np.zeros_like(weight) for name, weight in network.items()}
    held_out = fit.build(prepared, variant.spec, network)
    held_out, calibration, thresholds, reference = fit.calibrate(prepared, held_out)
    final = fit.rebuild_on_all(prepared, held_out)
    return replace(
        whole,
        forecaster=final,
        calibration=calibration,
        thresholds=thresholds,
        drift_reference=reference,
    )
