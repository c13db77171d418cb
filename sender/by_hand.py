"""Images that a person has asked for with ``checkvalve-sender send``, besides those of images.yaml."""

from __future__ import annotations

from oci.reference import parse_reference
from sender.decisions import ByHand
from sender.images import Options, Origin, PinnedImage

RULE = "by hand"


def pin_by_hand(one: ByHand) -> PinnedImage:
    """Return the image that was asked for."""
    options = Options(collection=one.collection, urgent=one.urgent)
    return PinnedImage(parse_reference(one.reference), Origin(), options, rule=RULE, file="checkvalve-sender send")
