"""The forecast: what formats of each layer do at a network's output, alone and together, repair, and plans."""

from hypersign.forecasting.choice import check_real_weights
from hypersign.forecasting.effects import DESTROYED, Effect, Estimate, effect
from hypersign.forecasting.formats import FORMATS, Format, format_of
from hypersign.forecasting.law import Law, Mixture, fit
from hypersign.forecasting.network import forecast, inputs_of
from hypersign.forecasting.plan import Plan
from hypersign.forecasting.planning import Option, cheapest
from hypersign.forecasting.repairs import repair
from hypersign.forecasting.results import Forecast, LayerForecast

__all__ = [
    "forecast",
    "inputs_of",
    "Forecast",
    "LayerForecast",
    "Effect",
    "Estimate",
    "effect",
    "DESTROYED",
    "repair",
    "check_real_weights",
    "Plan",
    "Format",
    "FORMATS",
    "format_of",
    "Law",
    "Mixture",
    "fit",
    "Option",
    "cheapest",
]
