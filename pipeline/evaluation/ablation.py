"""What each part of the model brings: the same trained weights, one part left out at a time.

Nothing is trained again. Scales, calibration and thresholds are fitted anew for each
variant, on train parts alone; then it is scored and judged like the whole.
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

DAY = {1.0: BUDGETS[1.0]}
NEVER = 1_000_000_000  # warming so long that nothing is ever a surprise
SLOW = 1e-9


@dataclass(frozen=True, slots=True)
class Variant:
    """A model with one part left out."""

    name: str
    spec: ForecasterSpec
    #: Network weights multiplied by 0: the forecast is that of the ridge skip.
    without_network: bool = False
    #: The scorer's policy; None = the default.
    policy: ScoringPolicy | None = None


def variants(spec: ForecasterSpec) -> Iterator[Variant]:
    """The whole, then each with a part left out."""
    yield Variant("whole", spec)
    yield Variant("ridge skip alone, no GRU", spec, without_network=True)
    yield Variant("no level", replace(spec, level_weight=0.0))
    yield Variant(
        "level by day of the week alone", replace(spec, season_parts=1, season_events=NEVER)
    )
    yield Variant("fast smoothing alone", replace(spec, alphas=(spec.alphas[0],) * 2))
    yield Variant("no smoothing", replace(spec, alphas=(1.0, 1.0)))
    still = replace(spec.normaliser, rate_min=SLOW)
    yield Variant("statistics stand still", replace(spec, normaliser=still))
    yield Variant("learns from surprises too", spec, policy=ScoringPolicy(warmup_events=NEVER))


def ablate(data: Path, artifact: Path, narrate: Narrate) -> dict[str, DetectorResult]:
    """Judge every variant of an artifact that was trained on `data`, by name.

    Args:
        data: a folder with train and test parts.
        artifact: the whole, as `streamgauge train` wrote it.
        narrate: takes the lines of narration.
    """
    whole = artifacts.load(artifact)
    train, test = load(data, "train"), load(data, "test")
    share = float(whole.manifest["training"]["settings"]["held_out"])
    named = list(variants(whole.forecaster.spec))
    found: dict[str, DetectorResult] = {}
    prepared: dict[NormaliserSpec, fit.Prepared] = {}  # all that preparing depends on here
    with progress("ablate", len(named) * test.events, narrate) as advance:
        for one in named:
            key = one.spec.normaliser
            if key not in prepared:
                prepared[key] = fit.prepare(train.schema, train.series, one.spec, share)
            told = by_model(_variant(whole, one, prepared[key]), test, DAY, advance, one.policy)
            found[one.name] = judge(told, test, (data / NAB_WINDOWS).is_file(), DAY)
    return found


def _variant(whole: Artifact, variant: Variant, prepared: fit.Prepared) -> Artifact:
    """`whole` rebuilt as `variant`; its digest stays that of the whole."""
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
