"""Tasks: what a network is trained for. Classification of images, the next token of a text, regression."""

from hypersign.tasks.base import Loss, Task, check_numbers, inputs_and_targets
from hypersign.tasks.classification import LOSSES, Classification, cross_entropy, squared_hinge
from hypersign.tasks.next_token import NextToken
from hypersign.tasks.regression import Regression

__all__ = [
    "LOSSES",
    "Classification",
    "Loss",
    "NextToken",
    "Regression",
    "Task",
    "check_numbers",
    "cross_entropy",
    "inputs_and_targets",
    "squared_hinge",
]
