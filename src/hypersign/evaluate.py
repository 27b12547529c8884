"""How good a network is: accuracy, loss, confusion matrix; and batch-norm statistics that fit its weights."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hypersign._checks import HypersignError

__all__ = ["Evaluation", "class_scores", "cross_entropy", "evaluate", "reestimate_batch_norm", "squared_hinge"]

Loss = Callable[[Tensor, Tensor], Tensor]


def squared_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Squared hinge loss against targets of -1 and +1, mean over batch and classes.

        L = mean_{n,c} max(0, 1 - t_nc z_nc)^2,     t_nc = +1 if c is the label of n else -1

    Args:
        logits: z, shape `(N, classes)`.
        labels: class numbers, shape `(N,)`.

    Source: Courbariaux & Hubara 2016 (arXiv 1602.02830); Anderson & Berg 2018.

    >>> squared_hinge(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item()
    0.5
    """
    targets = torch.full_like(logits, -1.0).scatter_(1, labels[:, None], 1.0)
    return (1 - targets * logits).clamp(min=0).square().mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy, mean over the batch: L = mean_n -log softmax(z_n)[label of n].

    >>> round(cross_entropy(torch.zeros(1, 10), torch.tensor([3])).item(), 4)
    2.3026
    """
    return nn.functional.cross_entropy(logits, labels)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Accuracy (share of images whose largest logit is the label's), mean loss, and the confusion matrix.

    `confusion[i][j]` counts the images of class i that were taken for class j.
    """

    images: int
    accuracy: float
    loss: float
    confusion: tuple[tuple[int, ...], ...]


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Every module of `model` in one mode, and back in its own afterwards."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """float32 throughout: no autocast, and no TF32, which rounds the factors of a product to 11 bits."""
    backends: Any = torch.backends  # its stubs lack the setting of convolutions
    settings = backends.cudnn.conv, backends.cuda.matmul
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def class_scores(output: Tensor) -> Tensor:
    """A network's output as one row of class scores per image: (N, classes) as it is, (N, classes, 1, 1) flattened.

    A head without `nn.Flatten()` gives the second shape, which would broadcast against labels or other scores.

    Raises:
        HypersignError: the output has another shape.

    >>> class_scores(torch.zeros(2, 10, 1, 1)).shape
    torch.Size([2, 10])
    """
    if output.dim() < 2 or output.shape[2:].numel() != 1:
        raise HypersignError(
            f"the network must give one row of class scores per image, (N, classes); it gives "
            f"{tuple(output.shape)}: end it with a pooling to 1 x 1, or with nn.Flatten() and a linear layer"
        )
    return output.flatten(1)


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, loss: Loss = cross_entropy) -> Evaluation:
    """Evaluates a network on batches, in float32, one batch in memory at a time.

    Args:
        model: maps images to logits; left in the mode it is in.
        batches: pairs of images and labels, on the model's device.
        loss: mean loss of a batch.

    Raises:
        HypersignError: there is no image, or a weight, statistic or logit is NaN.

    >>> model = nn.Flatten()
    >>> evaluate(model, [(torch.eye(3), torch.tensor([0, 1, 0]))]).confusion
    ((1, 0, 1), (0, 1, 0), (0, 0, 0))
    """
    for name, tensor in model.state_dict().items():
        if torch.isnan(tensor).any():  # a latent weight's would go unseen: sign(NaN) is a level
            raise HypersignError(f"{name} must hold numbers; it holds NaN: take an earlier state")
    images = 0
    total = 0.0
    confusion: Tensor | None = None
    device = next((p.device.type for p in model.parameters()), "cpu")
    with full_precision(device), mode(model, False), torch.no_grad():
        for x, labels in batches:
            logits = class_scores(model(x)).float()
            if torch.isnan(logits).any():
                raise HypersignError(
                    f"the network's logits must be numbers; image {images} or one soon after it gives NaN: "
                    "its weights or statistics are broken, take an earlier state"
                )
            classes = logits.shape[1]
            pairs = labels * classes + logits.argmax(1)
            counts = torch.bincount(pairs, minlength=classes * classes).view(classes, classes)
            confusion = counts if confusion is None else confusion + counts
            total += float(loss(logits, labels)) * len(labels)
            images += len(labels)
    if confusion is None:
        raise HypersignError("evaluation needs at least one image; got none")
    return Evaluation(
        images=images,
        accuracy=int(confusion.diagonal().sum()) / images,
        loss=total / images,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def reestimate_batch_norm(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> int:
    """Sets every batch norm's running statistics to the mean over `batches` of their batch statistics.

    Running averages lag behind weights that move, and one flipped sign moves a whole layer's input: slow
    averages (the original's decay is .999) are far off after few steps. The batches should be at least as
    large as those of the training.

    Args:
        model: left in the mode it is in; weights are not touched.
        batches: pairs of images and labels (not looked at), on the model's device.

    Returns:
        The number of images seen; 0, and nothing done, where the model has no batch norm.

    Raises:
        HypersignError: there is no batch.

    >>> norm = nn.BatchNorm1d(1)
    >>> reestimate_batch_norm(norm, [(torch.tensor([[1.0], [3.0]]), torch.zeros(2))])
    2
    >>> norm.running_mean, norm.running_var
    (tensor([2.]), tensor([2.]))
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    images = 0
    with mode(model, False), torch.no_grad():
        # Only the batch norms go into training mode: dropout stays off, wherever it is called from.
        for norm in norms:
            norm.training = True
        try:
            for x, _ in batches:
                if not images:
                    for norm in norms:
                        norm.reset_running_stats()
                        norm.momentum = None  # the plain mean over all batches
                model(x)
                images += len(x)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if not images:
        raise HypersignError("re-estimating batch norm needs at least one batch; got none")
    return images
