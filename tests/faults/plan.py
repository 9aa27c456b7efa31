"""Selects the cases to run: all cases of the requested parts, or a share of every group."""

import argparse
import importlib
from collections import defaultdict

from tests.faults.case import Case, evenly
from tests.faults.client import Slot
from tests.faults.world import World


def chosen(made: World, slot: Slot, parts: list[str], arguments: argparse.Namespace) -> list[Case]:
    cases: list[Case] = []
    for part in parts:
        cases += importlib.import_module(f"tests.faults.{part}").cases(made, slot, arguments)
    if arguments.only:
        asked = tuple(f"{one}/" for one in arguments.only)
        cases = [case for case in cases if f"{case.name}/".startswith(asked)]
    return share_of(cases, arguments.share)


def share_of(cases: list[Case], share: float) -> list[Case]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.group].append(case)
    return [
        case
        for group in groups.values()
        for case in evenly(group, max(1, round(share * len(group))))
    ]
