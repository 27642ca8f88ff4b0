"""The one shape for everything the audit and the doctor say."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """Something a person should know about their data.

    Args:
        kind: a short name with hyphens, e.g. `unreadable`.
        severity: `error`, `warning` or `info`.
        ids: the samples concerned.
        evidence: numbers and texts that show it.
        cause: the likely cause, one sentence.
        remedy: what to change.
    """

    kind: str
    severity: Severity
    ids: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        return {**asdict(self), "ids": list(self.ids), "evidence": dict(self.evidence)}
