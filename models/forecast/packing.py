"""Packs a model into the arrays that the kernel reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.forecast.spec import ForecasterSpec
from streamgauge.models.kernel.buffers import ModelParams, PackedNetwork
from streamgauge.models.simd.matmul import pack
from streamgauge.models.state.entity_row import vectors_of


def pack_params(spec: ForecasterSpec, features: int) -> ModelParams:
    """Return the numbers of `spec` in the types of compiled code."""
    norm, single = spec.normaliser, np.float32
    return ModelParams(
        lags=spec.lags,
        season_parts=spec.season_parts,
        clip=single(norm.clip),
        cap=single(spec.cap),
        level_weight=spec.level_weight_of(features),
        season_rate_min=single(1.0 / spec.season_events),
        rate_min=single(norm.rate_min),
        prior_events=single(norm.prior_events),
        alpha_fast=single(spec.alphas[0]),
        alpha_slow=single(spec.alphas[1]),
    )


def pack_network(
    spec: ForecasterSpec,
    weights: Mapping[str, NDArray[Any]],
    coefficients: NDArray[Any],
    *,
    std_floor: NDArray[Any],
    dtype: np.dtype[Any],
) -> PackedNetwork:
    """Lay out a model for compiled code.

    Args:
        spec: shape and settings of the model.
        weights: arrays named as in `models.forecast.forecaster.weight_shapes`.
        coefficients: (1 + E, L, F) of the linear part; index 0 is the fleet.
        std_floor: (1 + E, F) smallest standard deviations.
        dtype: record of an entity's row.
    """

    def biased(name: str, suffix: str = "") -> NDArray[Any]:
        weight, bias = weights[f"{name}weight{suffix}"], weights[f"{name}bias{suffix}"]
        return np.hstack([weight, bias[:, None]])

    hidden = [biased("mean."), biased("log_sigma."), biased("gru.", "_hh")]
    return PackedNetwork(
        vectors=vectors_of(dtype),
        params=pack_params(spec, std_floor.shape[1]),
        from_hidden=pack(np.vstack(hidden)),
        from_event=pack(biased("gru.", "_ih")),
        coefficients=np.ascontiguousarray(coefficients, np.float32).reshape(-1),
        var_floors=np.square(std_floor, dtype=np.float32).reshape(-1),
    )
