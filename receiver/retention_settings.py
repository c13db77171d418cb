"""The section ``retention`` of receiver.yaml: how long what the desired state has dropped is kept."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from runtime.settings import Duration, Ratio, Section


class Retention(Section):
    """A release is kept while it is among the newest *releases*, or younger than *age*: whichever keeps it longer.

    Neither given: everything is kept. What a kept release needs is in the spool, and its tags are in the target.
    """

    releases: Annotated[int, Field(ge=1)] | None = None  # of each collection, in the order in which they came
    age: Duration | None = None  # s since another took its place, counted while publish is at work
    shrink: Annotated[Ratio, Field(gt=0)] = 0.5  # a release that drops a larger share of the images deletes nothing
    shrink_images: Annotated[int, Field(ge=1)] = 3  # if these are at least so many, or all

    @property
    def keeps_everything(self) -> bool:
        """Whether nothing is ever removed."""
        return self.releases is None and self.age is None


BY_DEFAULT: Final = Retention(releases=10, age=30 * 86_400.0)
