"""Only `models/alerts/` writes the alert and budget fields of an entity's row."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamgauge.models.state.entity_row import ALERT_FIELDS, BUDGET_FIELDS

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "transforms", "pipeline", "infra")
OWNER = ROOT / "models" / "alerts"
FIELDS = {name for name, *_ in (*ALERT_FIELDS, *BUDGET_FIELDS)}


def targets(node: ast.AST) -> list[ast.expr]:
    """What a statement assigns to, deletes, or binds in a loop or `with`."""
    if isinstance(node, ast.Assign | ast.Delete):
        return node.targets
    if isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.comprehension):
        return [node.target]
    if isinstance(node, ast.withitem) and node.optional_vars:
        return [node.optional_vars]
    return []


def fields_of(target: ast.expr) -> Iterator[str]:
    """Names of the fields that an assignment to `target` writes: of an attribute or by key."""
    if isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from fields_of(element)
    elif isinstance(target, ast.Starred):
        yield from fields_of(target.value)
    elif isinstance(target, ast.Attribute):
        yield target.attr
    elif isinstance(target, ast.Subscript):
        for constant in ast.walk(target.slice):
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                yield constant.value
        yield from fields_of(target.value)  # rows["field"][i] and row.field[i] write it as well


def assigned(source: str) -> set[str]:
    """Alert fields that a module assigns."""
    written = {
        field
        for node in ast.walk(ast.parse(source))
        for target in targets(node)
        for field in fields_of(target)
    }
    for node in ast.walk(ast.parse(source)):
        is_setattr = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if is_setattr and node.func.id == "setattr" and isinstance(node.args[1], ast.Constant):
            written.add(node.args[1].value)
    return written & FIELDS


@pytest.mark.parametrize(
    "line",
    [
        "head.alert_events = 0",
        "head.alert_events += 1",
        "row['credit'] = 1.0",
        "rows['credit'][3] = 1.0",
        "rows[3]['credit'] -= 1.0",
        "a, (b, head.alert_peak) = 1, (2, 3)",
        "rows[['credit', 'partition']] = 0",
        "for head.alert_row in range(3): pass",
        "setattr(head, 'alert_peak', 1)",
    ],
)
def test_an_assignment_is_noticed(line):
    assert len(assigned(line)) == 1


def test_reading_a_field_is_no_assignment():
    assert not assigned("peak = row['alert_peak']\nhead.event_count = head.alert_events")


def test_only_the_alerts_room_assigns_alert_fields():
    writers = {
        str(path.relative_to(ROOT)): fields
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if OWNER not in path.parents and (fields := assigned(path.read_text()))
    }
    assert not writers


def test_the_alerts_room_assigns_all_of_them():
    texts = [path.read_text() for path in sorted(OWNER.glob("*.py"))]
    assert set().union(*map(assigned, texts)) == FIELDS
