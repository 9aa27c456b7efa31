"""Files made to harm: nothing of them is run, nothing outside is read, each is refused in one line,
soon and in bounded memory.
"""

import resource
import sys
import time
from pathlib import Path

import pytest
from hostile_files import CASES, Trap

from configs.errors import EXIT_CODES, LONGEST_MESSAGE, one_line

SECONDS, KILOBYTES = 20.0, 1_500_000
opened: list[str] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes):
        opened.append(str(arguments[0]))


sys.addaudithook(_hear)


@pytest.mark.parametrize("name", CASES)
def test_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = Trap(tmp_path / "artefact", tmp_path / "ran", tmp_path / "secret")
    trap.folder.mkdir()
    trap.secret.write_text('{"canary": "4b1d-outside"}')
    case = CASES[name]
    case.make(trap)
    monkeypatch.setattr(
        "builtins.input", lambda *words: pytest.fail(f"asked on the terminal: {words}")
    )
    opened.clear()
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(tuple(kind for kind, _ in EXIT_CODES)) as raised:
        case.use(trap)
    seconds = time.process_time() - started  # other processes may share the machine
    line = one_line(raised.value)
    assert case.message in line, line
    assert "\n" not in line and line.isprintable() and len(line) <= LONGEST_MESSAGE
    assert not trap.ran.exists(), "its payload was run"
    assert "4b1d-outside" not in line
    assert not [path for path in opened if Path(path).name == trap.secret.name], (
        "it was read outside of its folder"
    )
    assert seconds < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KILOBYTES
