"""The codes as a table in Markdown: `culvert analyze --codes`, and the heart of docs/analyze.md."""

from __future__ import annotations

from control.analyze import CODES


def table() -> str:
    rows = [
        f"| {code.name} | {code.severity.word} | {code.title} | {code.help} |"
        for code in sorted(CODES.values(), key=lambda code: code.name)
    ]
    return "\n".join(["| code | severity | what is found | what follows, and what to do |", "| --- | --- | --- | --- |", *rows])
