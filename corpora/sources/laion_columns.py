"""Reads the columns of LAION's metadata, whatever type a file gives them.

In:  Arrow columns: texts with broken bytes; numbers as text ("0.31", "None"), decimals or integers;
     ratings as labels, booleans or probabilities.
Out: texts, float32 numbers, labels in capitals. What cannot be read is null.
"""

import math

import pyarrow as pa

UNSAFE, SAFE = "NSFW", "UNLIKELY"  # LAION's labels; the third is UNSURE
# their synonyms in datasets made from LAION
LABELS = dict.fromkeys(("TRUE", "T", "YES", "Y", "UNSAFE", "PORN"), UNSAFE)
LABELS |= dict.fromkeys(("FALSE", "F", "NO", "N", "SAFE", "SFW"), SAFE)
UNKNOWN = ("", "?", "NONE", "NULL", "NAN", "NA", "N/A")


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_null,
    )
    return any(test(kind) for test in (*tests, pa.types.is_binary, pa.types.is_large_binary))


def as_bytes(column: pa.Array) -> pa.Array:
    """As binary: Parquet does not guarantee that strings are UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return (column if is_text(column.type) else column.cast(pa.string())).cast(pa.large_binary())


def as_text(column: pa.Array) -> pa.Array:
    """As strings; null where the bytes are invalid UTF-8."""
    found = as_bytes(column)
    try:
        return found.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_valid(one) for one in found.to_pylist()], pa.string())


def as_numbers(column: pa.Array) -> pa.Array:
    """float32; null where there is no finite number."""
    return pa.array([_number(value) for value in _values(column)], pa.float32())


def ratings(columns: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
    """From the rating columns: the label, in capitals, and the probability that the picture is
    unsafe.

    Of several labels the first that is not SAFE counts, of several probabilities the highest.
    """
    labels: list[str | None] = [None] * columns.num_rows
    probabilities: list[float | None] = [None] * columns.num_rows
    for column in columns.columns:
        for row, value in enumerate(_values(column)):
            label, probability = _rating(value)
            if label is not None and labels[row] in (None, SAFE):
                labels[row] = label
            if probability is not None:
                probabilities[row] = max(probability, probabilities[row] or 0.0)
    return pa.array(labels, pa.string()), pa.array(probabilities, pa.float32())


def _rating(value: object) -> tuple[str | None, float | None]:
    if isinstance(value, bool):
        return (UNSAFE if value else SAFE), None
    number = _number(value)
    if number is not None:
        return None, number
    label = str(value).strip().upper() if isinstance(value, str) else ""
    return (None if label in UNKNOWN else LABELS.get(label, label)), None


def _values(column: pa.Array) -> list[object]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    result: list[object] = (as_text(column) if is_text(kind) else column).to_pylist()
    return result


def _number(value: object) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _valid(text: bytes | None) -> str | None:
    try:
        return None if text is None else text.decode("utf-8")
    except UnicodeDecodeError:
        return None
