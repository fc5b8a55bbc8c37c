"""The base of every recipe and of every assay's settings: validated, frozen, no unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable settings with validation; an unknown key is an error. Field descriptions become the JSON schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def defined_by(cls, protocol: str) -> frozenset[str]:
        """The settings that a named protocol decides; none where there are no protocols."""
        del protocol
        return frozenset()
