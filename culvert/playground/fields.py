"""Reading a mapping strictly: every field is taken by name and type, whatever is left over is refused with what would be accepted.

Nothing is raised while reading: refusals collect in the `Report`, so that one look at a manifest shows all that is wrong with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mesh.model.errors import ConfigError, Refusal


class Report:
    """The refusals of one object. `where` is file and line, `subject` is `Kind namespace/name`."""

    def __init__(self, where: str, subject: str) -> None:
        self.where = where
        self.subject = subject
        self.refusals: list[Refusal] = []

    def refuse(self, field: str, value: object, accepted: str) -> None:
        text = repr(value)
        self.refusals.append(Refusal(self.where, self.subject, field, text if len(text) <= 80 else text[:77] + "...", accepted))

    def raise_if_any(self) -> None:
        if self.refusals:
            raise ConfigError(*self.refusals)


class Fields:
    """One mapping at `path`. A field that is absent or null gives the default; a field of another type is refused and gives it too."""

    def __init__(self, value: object, path: str, report: Report) -> None:
        self.path = path
        self.report = report
        self._left: dict[str, Any] = {}
        if isinstance(value, Mapping):
            self._left = {str(key): item for key, item in value.items()}
        elif value is not None:
            report.refuse(path, value, "a mapping")
        self._known: list[str] = []

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str) -> Any:
        self._known.append(name)
        return self._left.pop(name, None)

    def ignore(self, *names: str) -> None:
        """Fields that mean something elsewhere and nothing here."""
        for name in names:
            self.take(name)

    def has(self, name: str) -> bool:
        return self._left.get(name) is not None

    def string(self, name: str, default: str = "", *, required: bool = False, among: Collection[str] = ()) -> str:
        value = self.take(name)
        if value is None:
            if required:
                self.report.refuse(self.at(name), None, " or ".join(among) or "a string; it is required")
            return default
        if not isinstance(value, str) or (among and value not in among):
            self.report.refuse(self.at(name), value, " or ".join(among) or "a string (quote it)")
            return default
        return value

    def integer(self, name: str, default: int, low: int = 0, high: int = 2**31 - 1) -> int:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.report.refuse(self.at(name), value, f"a number from {low} to {high}")
            return default
        return value

    def port(self, name: str) -> int | str:
        """A port by number or by the name of a container port."""
        value = self.take(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
            return value
        self.report.refuse(self.at(name), value, "a number from 1 to 65535 or the name of a container port")
        return 1

    def strings(self, name: str) -> tuple[str, ...]:
        value = self.take(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.report.refuse(self.at(name), value, "a list of strings (quote numbers)")
            return ()
        return tuple(value)

    def labels(self, name: str) -> dict[str, str]:
        value = self.take(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not all(isinstance(item, str) for pair in value.items() for item in pair):
            self.report.refuse(self.at(name), value, "a mapping of strings to strings (quote numbers and booleans)")
            return {}
        return dict(value)

    def child(self, name: str) -> Fields:
        return Fields(self.take(name), self.at(name), self.report)

    def children(self, name: str) -> Iterator[Fields]:
        value = self.take(name)
        if value is None:
            return
        if not isinstance(value, list):
            self.report.refuse(self.at(name), value, "a list")
            return
        for index, item in enumerate(value):
            yield Fields(item, f"{self.at(name)}[{index}]", self.report)

    def finish(self) -> None:
        """Refuse what nobody took."""
        for name, value in self._left.items():
            self.report.refuse(self.at(name), value, "one of " + ", ".join(sorted(self._known)))
        self._left.clear()
