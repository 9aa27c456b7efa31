"""Secrets are masked in everything that is written or printed.

In:  texts, or trees of them such as a recipe's settings.
Out: the same, with `***` where a password, a token or a signature stood. What was masked before is
     left as it is, so masked forms can be compared.

Recognised: the user and password of a URL, the parameters of a signed URL, assignments such as
`HF_TOKEN=...`, tokens of well-known form, and the values of this process' secret variables.
"""

import os
import re
from typing import Any

MASK = "***"
NAMES = r"(?:sig|token|secret|key|passw|pwd|auth|credential|session|jwt)"
USER = re.compile(r"(?<=://)[^/\s@?#'\"]+@")
PARAMETER = re.compile(r"(?<=[?&])([\w.~%-]+)=([^&\s#'\"<>)\]]+)")
SIGNED = re.compile(NAMES + r"|^x-(?:amz|goog|ms)|policy|expires|^s[a-z]{1,2}$|access|code$", re.I)
LONG_VALUE = 24  # characters; a parameter this long is hardly the name of a file
# Of environment variables and options; `eos_token=...` and `max_tokens=...` are none.
ASSIGNMENT = re.compile(
    r"(?<![?&\w])([A-Z0-9_]*(?:TOKEN|SECRET|KEY|PASSWORD|PASSWD|PWD|CREDENTIALS?)[A-Z0-9_]*"
    r"|(?:\w*_)?(?:password|passwd|secret|api_key|access_token|auth_token))=([^\s&'\",;]+)"
)
VARIABLE = re.compile(r"TOKEN|SECRET|PASSW|_KEY$|_KEY_|CREDENTIAL", re.I)
SHORTEST_VALUE = 8  # characters; a shorter value would mask ordinary words
TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bgithub_pat_\w{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abprs]-[\w-]{10,}|\bglpat-[\w-]{16,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
)


def masked(text: str) -> str:
    for value in _own_values():
        text = text.replace(value, MASK)
    if "://" in text:
        text = USER.sub(f"{MASK}@", text)
        text = PARAMETER.sub(_parameter, text)
    if "=" in text:
        text = ASSIGNMENT.sub(rf"\1={MASK}", text)
    return TOKEN.sub(MASK, text)


def masked_tree(tree: Any) -> Any:
    """Of what JSON can hold; keys stay as they are."""
    if isinstance(tree, dict):
        return {key: masked_tree(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [masked_tree(value) for value in tree]
    return masked(tree) if isinstance(tree, str) else tree


def _parameter(found: re.Match[str]) -> str:
    name, value = found.groups()
    secret = SIGNED.search(name) or len(value) >= LONG_VALUE
    return f"{name}={MASK}" if secret else found[0]


def _own_values() -> list[str]:
    """The longest first: one may hold another."""
    found = {
        value
        for name, value in os.environ.items()
        if VARIABLE.search(name) and len(value) >= SHORTEST_VALUE and not value.startswith("/")
    }
    return sorted(found, key=len, reverse=True)
