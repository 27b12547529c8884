"""The geometry of quantized networks: measured on a trained one, predicted by closed forms."""

from hypersign.geometry.advice import Advice, LayerAdvice, advise
from hypersign.geometry.inspection import inspect
from hypersign.geometry.results import (
    AngleStats,
    Components,
    Density,
    DotProducts,
    Geometry,
    Histogram,
    LayerGeometry,
    WeightStats,
    WhatIfCurve,
)
from hypersign.geometry.tracking import TrackedLayer, Tracker

__all__ = [
    "inspect",
    "advise",
    "Advice",
    "LayerAdvice",
    "Tracker",
    "TrackedLayer",
    "Geometry",
    "LayerGeometry",
    "AngleStats",
    "WeightStats",
    "DotProducts",
    "Density",
    "Histogram",
    "WhatIfCurve",
    "Components",
]
