"""YAML as people write it: PyYAML's 1.1 dialect reads `1e-4` as text and `no` as false; here both
follow YAML 1.2.

In:  the text of a recipe, or the right-hand side of an override.
Out: plain Python values, and text again that reads back equal. A key that stands twice is an error.
"""

import re
from typing import Any

import yaml

_BOOL = re.compile(r"^(?:true|false)$", re.I)
_FLOAT = re.compile(
    r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
)
_REPLACED = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")


LONGEST = 1_000_000  # characters of a document: the longest recipe here has 10,000
MOST_NODES = 100_000  # values of a document, an alias counted as all that it repeats


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        """Counts what the document expands to: aliases of aliases hold gigabytes in a few lines.

        An alias of a node that is not whole yet would be a value that holds itself.
        """
        alias = self.peek_event() if self.check_event(yaml.AliasEvent) else None
        if alias is None:
            before = self.nodes
            node = super().compose_node(parent, index)
            self.nodes += 1
            self.sizes[id(node)] = self.nodes - before
        else:
            node = super().compose_node(parent, index)
            if id(node) not in self.sizes:
                problem = f"the alias *{alias.anchor} stands inside of what it repeats"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=alias.start_mark)
            self.nodes += self.sizes[id(node)]
        if self.nodes > MOST_NODES:
            problem = f"more than {MOST_NODES:,} values, aliases counted as what they repeat"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())
        return node

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.nodes = 0
        self.sizes: dict[int, int] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key in (key.value for key, _ in node.value if isinstance(key.value, str)):
            if key in keys:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice", problem_mark=node.start_mark
                )
            keys.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either dialect would read as something else than text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML folds Unicode's line breaks away unless the text is double-quoted
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if re.search("[\x85\u2028\u2029]", text) else None
    )


_Dumper.add_representer(str, _represent_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read(text: str) -> Any:
    """Raises ValueError: the line, if it is known, and the problem."""
    if len(text) > LONGEST:
        raise ValueError(f": {len(text):,} characters, {LONGEST:,} at most")
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    # beside YAMLError, PyYAML lets out what its constructors raise: `2001-99-99`, `!!int ""`, a
    # thousand brackets
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or next(
            iter(str(error).splitlines()), type(error).__name__
        )
        raise ValueError(f"{line}: {problem}") from None


def write(tree: Any) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
