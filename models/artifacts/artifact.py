"""The artifact: a directory with everything that a scorer needs, verified when it is loaded.

    manifest.json            schema, model, training, size and SHA-256 of each file
    weights.safetensors      the network, named as in `models.forecast.forecaster.weight_shapes`
    statistics.safetensors   priors, linear part, calibration, thresholds, drift reference

Its version is the SHA-256 of the canonical bytes of the manifest, which holds the hashes of the
other files. Files are verified before they are parsed, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as tensor_bytes

from streamgauge.models.alerts.calibration import Calibration
from streamgauge.models.alerts.thresholds import Thresholds
from streamgauge.models.drift.reference import DriftReference
from streamgauge.models.errors import ArtifactError, ConfigError
from streamgauge.models.events.schema import Schema
from streamgauge.models.forecast.forecaster import Forecaster, ScorePriors
from streamgauge.models.forecast.linear import Linear
from streamgauge.models.forecast.normaliser import NormaliserSpec, Priors
from streamgauge.models.forecast.self_test import self_test
from streamgauge.models.forecast.spec import ForecasterSpec
from streamgauge.models.state.entity_row import RESIDUALS

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
STATISTICS = "statistics.safetensors"

MANIFEST_BYTES_MAX = 8 << 20
FILE_BYTES_MAX = 1 << 30
HEADER_BYTES_MAX = 1 << 20  # of a safetensors file: room for 10,000 tensors
TENSORS_MAX = 10_000
DTYPES = frozenset({"F32", "F64", "U32", "I64"})


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A verified artifact, ready to score."""

    schema: Schema
    forecaster: Forecaster
    calibration: Calibration
    thresholds: Thresholds
    drift_reference: DriftReference
    manifest: dict[str, Any]
    #: Version of the model, 64 hex digits; every output carries it.
    digest: str

    @property
    def washout_events(self) -> int:
        """Events after which the score of an entity no longer depends on its first state."""
        return int(self.manifest["washout_events"])


def canonical(manifest: Mapping[str, Any]) -> bytes:
    """Return the canonical bytes of a manifest: sorted keys, no spaces, UTF-8, no NaN.

    >>> canonical({"b": 1, "a": [0.5]})
    b'{"a":[0.5],"b":1}'
    """
    text = json.dumps(
        manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Return the version of an artifact: SHA-256 of the canonical manifest, 64 hex digits."""
    return hashlib.sha256(canonical(manifest)).hexdigest()


def write(
    directory: Path,
    forecaster: Forecaster,
    calibration: Calibration,
    *,
    thresholds: Thresholds,
    drift_reference: DriftReference,
    washout_events: int,
    training: Mapping[str, Any],
) -> str:
    """Write an artifact and return its digest.

    Args:
        directory: an artifact in it is replaced as a whole, and never half written.
        forecaster: with weights, specification, schema and priors.
        calibration: fitted on held-out scores.
        thresholds: fitted on the same scores.
        drift_reference: fitted on the same events.
        washout_events: see `Artifact.washout_events`; measured by training.
        training: how the model was trained, plain JSON types; copied into the manifest.

    Raises:
        ConfigError: `directory` exists and is not an artifact.
    """
    if directory.exists() and not (directory / MANIFEST).is_file():
        raise ConfigError(f"artifact: {directory} exists and is not an artifact; not replaced")
    files = {
        WEIGHTS: tensor_bytes(forecaster.weights),
        STATISTICS: tensor_bytes(_statistics(forecaster, calibration, thresholds, drift_reference)),
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        "schema": forecaster.schema.to_json(),
        "schema_fingerprint": forecaster.schema.fingerprint(),
        "model": asdict(forecaster.spec),
        "entities": list(forecaster.priors.entity_ids),
        "calibration": calibration.summary(),
        "washout_events": washout_events,
        "training": dict(training),
        "self_test": self_test(forecaster),
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        },
    }
    manifest = json.loads(canonical(manifest))  # as a reader gets it: tuples become lists
    _replace_directory(directory, {**files, MANIFEST: canonical(manifest)})
    return digest_of(manifest)


def load(directory: Path, expect_digest: str | None = None) -> Artifact:
    """Verify an artifact, build its parts, and run its self-test.

    Args:
        directory: as `write` wrote it.
        expect_digest: the version that the caller needs; None accepts any.

    Raises:
        ArtifactError: a part is missing, altered or of an unknown format, or this machine does
            not compute the same bits.
    """
    manifest, digest = _read_manifest(directory)
    if expect_digest is not None and digest != expect_digest:
        raise ArtifactError(
            f"artifact {directory}: expected version {expect_digest}; found {digest}; "
            "point the configuration at the artifact the job was started with"
        )
    weights = _read_tensors(directory, WEIGHTS, manifest)
    statistics = _read_tensors(directory, STATISTICS, manifest)
    try:
        schema = Schema.from_json(manifest["schema"])
        forecaster = _forecaster(schema, manifest, weights, statistics)
        calibration = Calibration.from_arrays(statistics)
        thresholds = Thresholds.from_arrays(statistics, len(forecaster.priors.entity_ids))
        drift_reference = DriftReference.from_arrays(statistics, schema.size)
        _check_self_test(directory, forecaster, manifest["self_test"])
        int(manifest["washout_events"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ArtifactError(
            f"artifact {directory}: {MANIFEST} and {STATISTICS} must describe a model of format "
            f"{FORMAT_VERSION}; got {type(error).__name__}: {error}"
        ) from error
    return Artifact(
        schema=schema,
        forecaster=forecaster,
        calibration=calibration,
        thresholds=thresholds,
        drift_reference=drift_reference,
        manifest=manifest,
        digest=digest,
    )


def _statistics(
    forecaster: Forecaster,
    calibration: Calibration,
    thresholds: Thresholds,
    drift_reference: DriftReference,
) -> dict[str, NDArray[Any]]:
    """Return all arrays except the weights, by name."""
    priors, scores = forecaster.priors, forecaster.score_priors
    arrays = {
        "prior.mean": priors.mean,
        "prior.var": priors.var,
        "prior.std_floor": priors.std_floor,
        "prior.entity_mean": priors.entity_mean,
        "prior.entity_var": priors.entity_var,
        "prior.scale": scores.scale,
        "prior.entity_scale": scores.entity_scale,
        "prior.score": np.array([scores.score], np.float64),
        "linear.pooled": forecaster.linear.pooled,
        "linear.entity": forecaster.linear.entity,
        **calibration.to_arrays(),
        **thresholds.to_arrays(),
        **drift_reference.to_arrays(),
    }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _forecaster(
    schema: Schema,
    manifest: Mapping[str, Any],
    weights: Mapping[str, NDArray[Any]],
    statistics: Mapping[str, NDArray[Any]],
) -> Forecaster:
    """Build the forecaster of an artifact, and check the shapes of its statistics."""
    model = dict(manifest["model"])
    normaliser = NormaliserSpec(**model.pop("normaliser"))
    spec = ForecasterSpec(**{**model, "alphas": tuple(model["alphas"]), "normaliser": normaliser})
    entities, f = len(manifest["entities"]), schema.size
    shapes = {
        "prior.mean": (f,),
        "prior.var": (f,),
        "prior.std_floor": (1 + entities, f),
        "prior.entity_mean": (entities, f),
        "prior.entity_var": (entities, f),
        "prior.scale": (RESIDUALS, f),
        "prior.entity_scale": (entities, RESIDUALS, f),
        "prior.score": (1,),
        "linear.pooled": (spec.lags, f),
        "linear.entity": (entities, spec.lags, f),
    }
    for name, shape in shapes.items():
        array = statistics[name]
        if array.shape != shape or not np.isfinite(array).all():
            raise ArtifactError(
                f"{STATISTICS}: {name!r} must be finite and of shape {shape}; got {array.shape}"
            )
    priors = Priors(
        mean=statistics["prior.mean"],
        var=statistics["prior.var"],
        std_floor=statistics["prior.std_floor"],
        entity_ids=tuple(manifest["entities"]),
        entity_mean=statistics["prior.entity_mean"],
        entity_var=statistics["prior.entity_var"],
    )
    scores = ScorePriors(
        scale=statistics["prior.scale"],
        entity_scale=statistics["prior.entity_scale"],
        score=float(statistics["prior.score"][0]),
    )
    linear = Linear(statistics["linear.pooled"], statistics["linear.entity"])
    return Forecaster(schema, spec, weights, linear=linear, priors=priors, score_priors=scores)


def _check_self_test(directory: Path, forecaster: Forecaster, expected: str) -> None:
    """Score the known sequence; its bits must equal those of the machine that trained."""
    if (digest := self_test(forecaster)) != expected:
        raise ArtifactError(
            f"artifact {directory}: self-test must give {expected}; got {digest}; "
            "install the pinned numba, or train again with this release"
        )


def _read_manifest(directory: Path) -> tuple[dict[str, Any], str]:
    """Read the manifest; its bytes must be canonical, because their hash is the version."""
    data = _read_bytes(directory, MANIFEST, MANIFEST_BYTES_MAX)
    try:
        manifest = json.loads(data)
        is_canonical = isinstance(manifest, dict) and canonical(manifest) == data
    except ValueError as error:
        raise ArtifactError(f"artifact {directory}: {MANIFEST} is not JSON: {error}") from error
    if not is_canonical:
        raise ArtifactError(
            f"artifact {directory}: {MANIFEST} must be canonical JSON; it was edited"
        )
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"artifact {directory}: format_version must be {FORMAT_VERSION}; "
            f"got {manifest.get('format_version')!r}; use the streamgauge that wrote it"
        )
    return manifest, hashlib.sha256(data).hexdigest()


def _read_tensors(
    directory: Path, name: str, manifest: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """Verify a safetensors file and its header, then parse it."""
    entry = manifest.get("files", {}).get(name)
    if not isinstance(entry, dict):
        raise ArtifactError(f"artifact {directory}: {MANIFEST} does not list {name}")
    data = _read_bytes(directory, name, FILE_BYTES_MAX)
    actual = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if actual != entry:
        raise ArtifactError(f"artifact {directory}: {name} must be {entry}; found {actual}")
    check_header(f"artifact {directory}: {name}", data)
    try:
        return parse_tensors(data)
    except SafetensorError as error:
        raise ArtifactError(f"artifact {directory}: {name} is not safetensors: {error}") from error


def check_header(where: str, data: bytes) -> None:
    """Refuse safetensors bytes with a header that is too large or names another dtype.

    Raises:
        ArtifactError: with `where` and the rule.
    """
    size = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else -1
    if not 0 < size <= min(HEADER_BYTES_MAX, len(data) - 8):
        raise ArtifactError(
            f"{where}: header must be 1 to {HEADER_BYTES_MAX} bytes inside the file; got {size}"
        )
    try:
        header = json.loads(data[8 : 8 + size])
        dtypes = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{where}: header is not that of safetensors: {error}") from error
    if len(header) > TENSORS_MAX:
        raise ArtifactError(f"{where}: at most {TENSORS_MAX} tensors; got {len(header)}")
    if foreign := sorted(str(dtype) for dtype in dtypes - DTYPES):
        raise ArtifactError(f"{where}: dtypes must be among {sorted(DTYPES)}; got {foreign}")


def _read_bytes(directory: Path, name: str, bytes_max: int) -> bytes:
    """Read one file of at most `bytes_max` bytes."""
    path = directory / name
    try:
        if (size := path.stat().st_size) > bytes_max:
            raise ArtifactError(
                f"artifact {directory}: {name} must be at most {bytes_max} bytes; found {size}"
            )
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"artifact {directory}: expected a readable file {name}; found {error.strerror}; "
            "make one with `streamgauge train`"
        ) from error


def _replace_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write all files to a directory beside `directory`, flush them, then rename it."""
    stage = directory.with_name(f".{directory.name}.stage")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    for name, data in files.items():
        with (stage / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    if directory.exists():  # a rename cannot replace a directory that is not empty
        old = directory.with_name(f".{directory.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        stage.rename(directory)
        shutil.rmtree(old)
    else:
        stage.rename(directory)
