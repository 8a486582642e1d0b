"""Arithmetic of time spans `[start, end)`, milliseconds."""

from __future__ import annotations

from collections.abc import Iterable

type Span = tuple[int, int]


def minus(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """What of `spans` no span of `others` covers, ascending and disjoint, touching parts joined."""
    cuts = union(others)
    out: list[Span] = []
    for begin, end in union(spans):
        start = begin
        for cut_start, cut_end in cuts:
            if cut_end <= start or cut_start >= end:
                continue
            if cut_start > start:
                out.append((start, cut_start))
            start = max(start, cut_end)
        if start < end:
            out.append((start, end))
    return out


def both(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """What of `spans` some span of `others` covers, ascending and disjoint."""
    whole = union(spans)
    return minus(whole, minus(whole, others))


def union(spans: Iterable[Span]) -> list[Span]:
    """The same instants as maximal spans, ascending; empty spans are dropped."""
    out: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return out


def length(spans: Iterable[Span]) -> int:
    """The sum of the lengths."""
    return sum(end - start for start, end in spans)
