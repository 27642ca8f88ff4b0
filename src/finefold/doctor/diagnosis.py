"""What the doctor says: findings, and for every check what it looked at and could have seen."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finefold.data.findings import Finding


@dataclass(frozen=True)
class Checked:
    """One check's answer.

    Args:
        name: of the check, as it is asked for: `alignment`.
        says: what was looked at, and what it could have seen, one sentence; or why it was not done.
        findings: none is an answer too.
        is_done: False where the check could not be made here; `says` tells why.
        numbers: that the check measured, whatever it found.
    """

    name: str
    says: str
    findings: tuple[Finding, ...] = ()
    is_done: bool = True
    numbers: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Diagnosis:
    """All checks of one subject."""

    checks: tuple[Checked, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all checks, errors first."""
        order = ("error", "warning", "info")
        found = [finding for check in self.checks for finding in check.findings]
        return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))

    @property
    def is_sound(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    @property
    def counts(self) -> Mapping[str, int]:
        """Severity -> number of findings."""
        return Counter(finding.severity for finding in self.findings)

    def to_list(self) -> Sequence[dict[str, Any]]:
        """The findings as plain JSON values."""
        return [finding.to_dict() for finding in self.findings]
