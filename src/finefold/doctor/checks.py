"""Every check by its name, in the order in which they are made."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from finefold.doctor.alignment import check_alignment
from finefold.doctor.collapse import check_collapse, with_causes
from finefold.doctor.contract import check_contract
from finefold.doctor.diagnosis import Checked, Diagnosis
from finefold.doctor.honesty import check_honesty
from finefold.doctor.inputs import check_inputs
from finefold.doctor.learning import check_learning
from finefold.doctor.shift import check_shift
from finefold.doctor.subject import Subject
from finefold.errors import UsageError

Check = Callable[[Subject], Checked]

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "alignment": check_alignment,
        "inputs": check_inputs,
        "learning": check_learning,
        "collapse": check_collapse,
        "honesty": check_honesty,
        "shift": check_shift,
        "contract": check_contract,
    }
)


def chosen_checks(only: Sequence[str]) -> Mapping[str, Check]:
    """The checks of these names; all where none is named.

    Raises:
        UsageError: there is no such check.
    """
    unknown = [name for name in only if name not in CHECKS]
    if unknown:
        raise UsageError(
            f"there is no check called {', '.join(f'`{name}`' for name in unknown)}",
            f"the checks are {', '.join(CHECKS)}",
        )
    return {name: check for name, check in CHECKS.items() if not only or name in only}


def make_checks(
    subject: Subject, only: Sequence[str] = (), *, told: Callable[[str], None] = lambda _: None
) -> Diagnosis:
    """All checks, or those named, of one subject.

    Args:
        subject: what is examined.
        only: names.
        told: the name of each check before it begins.
    """
    done: list[Checked] = []
    for name, check in chosen_checks(only).items():
        told(name)
        done.append(check(subject))
    return Diagnosis(tuple(with_causes(done)))
