"""Random damage to texts, bytes and JSON, as by editors, networks, disks and attackers."""

import json
import random
from typing import Any

NASTY_TEXTS = (
    "\x00",
    "\x1b[2J",
    "\u202e",
    "\u2028",
    "\ud800",
    "﻿",
    "\r",
    "\t",
    "../../etc/passwd",
    "/dev/zero",
    "{{7*7}}",
    "%s%n",
    "é" * 300,
    "赤" * 5000,
    "-1",
    "1e309",
    "nan",
    ".inf",
    "0x7fffffffffffffff",
    "null",
    "~",
    "[[[[",
    "{{{{",
    "&a *a",
    "<<: *a",
    "? - :",
    "!!binary x",
    "---\n...",
    "# ",
    "'",
    '"',
)
NASTY_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("nan"),
    "",
    "x" * 3000,
    "../x",
    "\x00",
    [],
    {},
    [[[]]],
    {"": {}},
    "\u202e",
)


def mutated_text(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(text) + 1)
        end = min(len(text), place + rng.randint(1, 12))
        kind = rng.randrange(6)
        if kind == 0:
            text = text[:place] + rng.choice(NASTY_TEXTS) + text[place:]
        elif kind == 1:
            text = text[:place] + text[end:]
        elif kind == 2:
            text = text[:place] + rng.choice(NASTY_TEXTS) + text[end:]
        elif kind == 3:
            text = (
                text[:place]
                + chr(
                    rng.choice(
                        [rng.randrange(0x20, 0x7F), rng.randrange(0xD800), rng.randrange(32)]
                    )
                )
                + text[end:]
            )
        elif kind == 4:
            lines = text.split("\n")
            rng.shuffle(lines) if len(lines) < 4 else lines.insert(
                rng.randrange(len(lines)), rng.choice(lines)
            )
            text = "\n".join(lines)
        else:
            text = text[:place] + text[place:end] * rng.choice([2, 50, 2000]) + text[end:]
    return text


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(content) + 1)
        end = min(len(content), place + rng.randint(1, 64))
        kind = rng.randrange(5)
        if kind == 0 and place < len(content):
            content = (
                content[:place]
                + bytes([content[place] ^ 1 << rng.randrange(8)])
                + content[place + 1 :]
            )
        elif kind == 1:
            content = content[:place]
        elif kind == 2:
            content = content[:place] + rng.randbytes(end - place) + content[end:]
        elif kind == 3:
            content = content[:place] + content[place:end] * rng.randint(2, 100) + content[end:]
        else:
            content = (
                content[:place]
                + rng.choice(NASTY_TEXTS).encode("utf-8", "surrogatepass")
                + content[place:]
            )
    return content


def mutated_json(content: bytes, rng: random.Random) -> bytes:
    """Half of the time still valid JSON with other values; otherwise damaged bytes."""
    try:
        value = json.loads(content)
    except ValueError:
        return mutated_bytes(content, rng)
    if rng.random() < 0.4:
        return mutated_bytes(content, rng)
    for _ in range(rng.randint(1, 3)):
        value = _mutated_value(value, rng)
    return json.dumps(value).encode()


def _mutated_value(value: Any, rng: random.Random) -> Any:
    """The value with one place in it changed, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name, kind = rng.choice(list(value)), rng.random()
        if kind < 0.25:
            return {key: one for key, one in value.items() if key != name}
        if kind < 0.35:
            return value | {rng.choice(NASTY_TEXTS): rng.choice(NASTY_VALUES)}
        return value | {name: _mutated_value(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        return [*value[:place], _mutated_value(value[place], rng), *value[place + 1 :]]
    return rng.choice(NASTY_VALUES)
