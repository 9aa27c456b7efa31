"""Fault injection: kills, signals, damaged files, full disks, fuzzed inputs and hostile files,
against a tiny real run.

`python -m tests.faults` runs it; docs/reliability.md says what it measures and holds its table.
"""
