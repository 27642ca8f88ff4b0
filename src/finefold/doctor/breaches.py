"""The one shape for whatever breaks the contract between training, evaluation and answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from finefold.data.findings import Finding, Severity

KIND = "contract-broken"


def broken(
    cause: str,
    remedy: str,
    ids: Sequence[str] = (),
    evidence: Mapping[str, Any] | None = None,
    severity: Severity = "error",
) -> Finding:
    """A `contract-broken` finding; `evidence` says under `what` which part of the contract it is."""
    return Finding(KIND, severity, tuple(ids), dict(evidence or {}), cause, remedy)
