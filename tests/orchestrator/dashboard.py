"""The Grafana dashboard that comes with the documents: its queries, and what they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana-dashboard.json"
# What Grafana puts in the place of its variables.
_VARIABLES = {"$__rate_interval": "30s", "$model": ".+", "$agent": ".+"}


@dataclass(frozen=True, slots=True)
class Series:
    """What a query asks for: a metric, the labels it selects by, and those it groups by."""

    metric: str
    labels: frozenset[str]


def content() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return read


def queries() -> list[str]:
    """Every query of every panel, as Grafana would send it."""
    return [_filled(target["expr"]) for panel in content()["panels"] for target in panel.get("targets", ())]


def choices() -> list[tuple[str, str]]:
    """The metric and the label that each variable takes its values from."""
    found = []
    for variable in content()["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert match, variable
            found.append((match[1], match[2]))
    return found


def legends() -> list[tuple[str, set[str]]]:
    """Each query with the labels that its legend shows."""
    targets = [target for panel in content()["panels"] for target in panel.get("targets", ())]
    return [(_filled(each["expr"]), set(re.findall(r"\{\{(\w+)\}\}", each["legendFormat"]))) for each in targets]


def series(query: str) -> list[Series]:
    """What a query asks for; raises ValueError for one that is no PromQL."""
    return list(_series(promql_parser.parse(query), frozenset()))


def _series(node: Any, grouped: frozenset[str]) -> Iterator[Series]:
    match node:
        case promql_parser.VectorSelector():
            yield Series(node.name, grouped | {matcher.name for matcher in node.matchers.matchers})
        case promql_parser.MatrixSelector():
            yield from _series(node.vector_selector, grouped)
        case promql_parser.AggregateExpr():
            yield from _series(node.expr, grouped | frozenset(node.modifier.labels if node.modifier else ()))
        case promql_parser.BinaryExpr():
            yield from _series(node.lhs, grouped)
            yield from _series(node.rhs, grouped)
        case promql_parser.Call():
            for argument in node.args:
                yield from _series(argument, grouped)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            yield from _series(node.expr, grouped)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return
        case _:
            raise ValueError(f"{type(node).__name__} is not looked into")


def _filled(expression: str) -> str:
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression
