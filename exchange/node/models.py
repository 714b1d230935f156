"""An owner lists a scoring model: its public side, with a commitment to its weights."""

from __future__ import annotations

from crypto.digest import SALT_BYTES
from crypto.ports import Randomness
from crypto.scoring.hiding import require_hiding
from crypto.scoring.model import ScoringModel
from crypto.scoring.parameters import PARAMETERS
from exchange.node.shelf import Shelf
from registry.product import ModelCard


def keep(model: ScoringModel, *, shelf: Shelf, randomness: Randomness) -> ModelCard:
    """Keep a model in the party's folder, and make the card that a product version carries.

    The salt of its commitment is fresh, so two listings of one model cannot be told to be one.
    Raises Malformed for more decimals than the weights can be hidden under.
    """
    name = next(p.name for p in PARAMETERS.values() if p.family is model.shape.family)
    require_hiding(model.shape, name)
    digest = shelf.keep_model(model, randomness.draw(SALT_BYTES))
    return ModelCard(model.shape, name, digest)
