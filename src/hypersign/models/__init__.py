"""The networks of the papers, built by name from options."""

from hypersign.models.associative_memory import AssociativeMemory, associative_memory, one_pass_recall
from hypersign.models.build import MODELS, build, options_of
from hypersign.models.ensemble import Ensemble
from hypersign.models.fast_transform import FastTransform, Switch, Transform, fast_transform
from hypersign.models.gpt import GPT, gpt
from hypersign.models.norm import ShiftBatchNorm1d, ShiftBatchNorm2d
from hypersign.models.recurrent import RecurrentNetwork, lstm
from hypersign.models.resnet import BinaryBlock, ChannelCopies, reactnet_a, resnet18, resnet20
from hypersign.models.vgg import mlp, vgg
from hypersign.models.vgg_small import vgg_small

__all__ = [
    "build",
    "MODELS",
    "options_of",
    "vgg",
    "mlp",
    "lstm",
    "RecurrentNetwork",
    "gpt",
    "GPT",
    "vgg_small",
    "resnet20",
    "resnet18",
    "reactnet_a",
    "fast_transform",
    "FastTransform",
    "Switch",
    "Transform",
    "associative_memory",
    "AssociativeMemory",
    "one_pass_recall",
    "BinaryBlock",
    "ChannelCopies",
    "Ensemble",
    "ShiftBatchNorm1d",
    "ShiftBatchNorm2d",
]
