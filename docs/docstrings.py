"""Reads docstrings as SpeechBrain writes them: numpy's sections, but with the headings Arguments and Example."""

import re

import griffe

ARGUMENTS, EXAMPLE = (re.compile(rf"^{name}\n-+$", re.MULTILINE) for name in ("Arguments", "Example"))


class SpeechBrainHeadings(griffe.Extension):
    """Gives sections numpy's headings."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Called when all of a package has been read."""
        self._rename(pkg)

    def _rename(self, obj: griffe.Object) -> None:
        if obj.docstring:
            heading = "Attributes" if obj.is_class and _is_schema(obj) else "Parameters"
            text = ARGUMENTS.sub(f"{heading}\n{'-' * len(heading)}", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub("Examples\n--------", text)
        for member in obj.members.values():
            if not member.is_alias:
                self._rename(member)


def _is_schema(obj: griffe.Class) -> bool:
    """Whether a class inherits the constructor that takes its fields, as pydantic's and transformers' models do."""
    dataclass = any("dataclass" in str(decorator.value) for decorator in obj.decorators)
    return "__init__" not in obj.members and not dataclass
