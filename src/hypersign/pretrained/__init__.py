"""Networks ready to use: they come with the package, each with a card that says what it is."""

from hypersign.pretrained.card import Card
from hypersign.pretrained.shipped import NETWORKS, PACKED, card, folder, names

__all__ = ["names", "card", "folder", "Card", "NETWORKS", "PACKED"]
