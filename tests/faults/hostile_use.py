"""Makes one hostile artefact in the working folder and opens it as the product does. Run by the
fork server.

Out: `ran`, if its code was run; `read_outside`, if the file beside its folder was opened; on the
terminal what a command would print.
"""

import importlib
import sys
from pathlib import Path

from configs import command
from tests.faults.client import ROOT


def main(argv: list[str]) -> int:
    sys.path.insert(0, str(ROOT / "tests"))
    makers = importlib.import_module("hostile_files")
    here = Path.cwd()
    trap = makers.Trap(here / "artefact", here / "ran", here / "secret")
    trap.folder.mkdir()
    trap.secret.write_text('{"canary": "outside"}', encoding="utf-8")
    case = makers.CASES[argv[0]]
    case.make(trap)

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            name = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()
            if Path(name).name == trap.secret.name:
                here.joinpath("read_outside").touch()

    sys.addaudithook(hear)
    return command.guard("hostile", lambda: case.use(trap))
