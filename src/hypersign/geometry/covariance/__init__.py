"""The covariance of a layer's inputs: measured in one pass over the data, it predicts the effect of any quantizer.

If a filter w is quantized to b, the correlation of its dot products with the inputs a is

    r = corr(a.w, a.b) = w'Cb / sqrt(w'Cw b'Cb)

with C the centred covariance of the inputs. This is exact for inputs of any distribution and mean.
`input_covariances` reads the data once and keeps C for each layer. `what_if` then predicts the effect of every
quantizer, threshold, number of levels, group scale and rotation. `effective_dimension` and `spectrum` describe C.
"""

from hypersign.geometry.covariance.accumulator import CovarianceAccumulator
from hypersign.geometry.covariance.curves import components, what_if_curves
from hypersign.geometry.covariance.measure import MOST_FAN_IN, Covariances, LayerCovariance, input_covariances
from hypersign.geometry.covariance.patches import input_patches, quantizable_layers
from hypersign.geometry.covariance.predictions import Prediction, predict
from hypersign.geometry.covariance.real_inputs import RealInputs
from hypersign.geometry.covariance.spectrum import Spectrum, effective_dimension, spectrum
from hypersign.geometry.covariance.what_if import (
    LloydMax,
    WhatIf,
    predicted_r,
    usual_quantizers,
    what_if,
    what_if_table,
)

__all__ = [
    "input_covariances",
    "Covariances",
    "LayerCovariance",
    "MOST_FAN_IN",
    "what_if",
    "what_if_table",
    "what_if_curves",
    "components",
    "WhatIf",
    "usual_quantizers",
    "LloydMax",
    "predict",
    "predicted_r",
    "Prediction",
    "RealInputs",
    "effective_dimension",
    "spectrum",
    "Spectrum",
    "CovarianceAccumulator",
    "input_patches",
    "quantizable_layers",
]
