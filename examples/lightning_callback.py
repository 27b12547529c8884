"""How does one bit's geometry move while Lightning trains?

A Lightning callback that logs, after each epoch, every layer's angle, r and flipped signs, beside whatever else is
logged. Needs Lightning, which HyperSign does not install: pip install lightning

    python examples/lightning_callback.py
"""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hypersign.data import load
from hypersign.geometry import Tracker
from hypersign.models import vgg


class GeometryCallback(lightning.Callback):
    """Logs `Tracker.scalars` of the module's network after each epoch."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.track = Tracker(module.network)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        module.log_dict(self.track.scalars(self.images))


class Classifier(lightning.LightningModule):
    """Any module will do; this one trains a small binary network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        x, labels = batch
        return nn.functional.cross_entropy(self.network(x), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), 3e-3)


torch.manual_seed(0)
data = load("digits")
pairs = list(data.batches(data.train, 100))
x, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
network = vgg(data.shape, len(data.classes), widths=(16, 32), pools=(1, 2), hidden=())
trainer = lightning.Trainer(
    max_epochs=3,
    accelerator="cpu",
    callbacks=[GeometryCallback(x[:300])],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Classifier(network), DataLoader(TensorDataset(x, labels), 50, shuffle=True))
for name, value in sorted(trainer.callback_metrics.items()):
    print(f"{name}: {float(value):.3f}")
