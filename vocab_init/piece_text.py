"""What a row of a vocabulary stands for: the text of a SentencePiece piece, the bytes of a CLIP
token.

In and out: strings and bytes; nothing on disk.
"""

from functools import cache

from distill.tokenizer.unigram import SPACE

WORD_END = "</w>"  # CLIP marks the token that ends a word


def sentencepiece_text(piece: str) -> str:
    """The text of a normal piece: `▁` becomes a space, spaces at the ends are stripped. `▁` alone
    gives an empty text.
    """
    return piece.replace(SPACE, " ").strip(" ")


def byte_of(piece: str) -> int:
    """The value of a SentencePiece byte piece: `<0x41>` gives 65."""
    return int(piece[3:-1], 16)


def clip_bytes(token: str) -> bytes | None:
    """The bytes of a CLIP token, with or without its `</w>`; None if it is not written in the
    byte-level alphabet.
    """
    alphabet = byte_level_alphabet()
    characters = token.removesuffix(WORD_END)
    return (
        bytes(alphabet[character] for character in characters)
        if all(character in alphabet for character in characters)
        else None
    )


def is_text(raw: bytes) -> bool:
    """Whether the bytes are valid UTF-8; part of a character, as the first byte of `é`, is not."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def readable(raw: bytes) -> str:
    """The text of these bytes; bytes that are not valid UTF-8 are written as `\\xe3`."""
    return raw.decode("utf-8", errors="backslashreplace")


@cache
def byte_level_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE (GPT-2's `bytes_to_unicode`, which
    CLIP took over), inverted.

    Printable bytes stand for themselves; the 68 others are numbered from U+0100 on, in their order.
    """
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }
