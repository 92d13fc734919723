"""Steps of a walk through an ONNX graph, each of which says why it cannot be taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir


class NearMiss(Exception):
    """Why a place that looked like a match is none: a clause that completes "<place>: ..."."""


class Rewrite(NamedTuple):
    """What a rule does at one place: `nodes`, whose result is `result`, become `fused`."""

    nodes: Sequence[ir.Node]
    result: ir.Value
    fused: ir.Node


def rewrite_each_softmax(graph: ir.Graph, rule: Callable[[ir.Node], Rewrite]) -> tuple[int, list[str]]:
    """Apply a rule, which raises NearMiss where it does not fit, around every Softmax, in place.

    Returns:
        How often it was applied, and of each Softmax left over why not.
    """
    count, reasons = 0, []
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        try:
            nodes, result, fused = rule(softmax)
        except NearMiss as miss:
            reasons.append(f"{softmax.name}: {miss}")
            continue
        replace(nodes, result, fused, fused.name or fused.op_type)
        count += 1
    return count, reasons


def producer(value: ir.Value | None, op_type: str, role: str) -> ir.Node:
    """The node that makes `value`, if it is of that type; `role` names the value in the reason."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != op_type or node.domain not in ("", "ai.onnx"):
        found = "nothing in this graph" if node is None else node.op_type
        raise NearMiss(f"{role} comes from {found}, not from {op_type}")
    return node


def consumer(value: ir.Value, op_type: str, role: str) -> ir.Node:
    """The only node that takes `value`, if it is of that type."""
    users = value.consumers()
    if value.is_graph_output() or len(users) != 1 or users[0].op_type != op_type:
        found = ", ".join(sorted(node.op_type for node in users)) or "nothing"
        found += " and the graph's outputs" if value.is_graph_output() else ""
        raise NearMiss(f"{role} goes to {found}, not to {op_type} alone")
    return users[0]


def constant(value: ir.Value | None, role: str) -> np.ndarray:
    """The array of an initializer."""
    if value is None or value.const_value is None:
        raise NearMiss(f"{role} is no constant")
    return value.const_value.numpy()


def with_constant(node: ir.Node, role: str) -> tuple[ir.Value, ir.Value]:
    """(computed, constant) inputs of a commutative node of which exactly one is an initializer."""
    fixed = [value for value in node.inputs if value is not None and value.const_value is not None]
    computed = [value for value in node.inputs if value is not None and value.const_value is None]
    if len(fixed) != 1 or len(computed) != 1:
        raise NearMiss(f"{role} has {len(fixed)} constant inputs, not 1")
    return computed[0], fixed[0]


def expect(what: str, actual: object, wanted: object) -> None:
    """Refuse a place whose attribute or constant is not the wanted one."""
    if actual != wanted:
        raise NearMiss(f"{what} is {actual}, not {wanted}")


def permutation(node: ir.Node) -> list[int]:
    """`perm` of a Transpose; its default, the reverse, is not what any rule wants and counts as none."""
    return list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else []


def closed(nodes: Iterable[ir.Node], result: ir.Value) -> list[ir.Node]:
    """The nodes, once each, if nothing but `result` leaves them."""
    inside = list({id(node): node for node in nodes}.values())
    members = {id(node) for node in inside}
    for node in inside:
        for output in node.outputs:
            leaves = output.is_graph_output() or any(id(user) not in members for user in output.consumers())
            if leaves and output is not result:
                raise NearMiss(f"{output.name} is used outside of it")
    return inside


def replace(nodes: Sequence[ir.Node], old: ir.Value, new: ir.Node, name: str) -> None:
    """Put `new` in the place of `nodes`, whose result was `old`, under `name` unless it is a result of the graph."""
    last = old.producer()
    assert last is not None  # it is one of `nodes`
    assert last.graph is not None
    contract = old.name if old.is_graph_output() else name
    graph = last.graph
    ir.convenience.replace_nodes_and_values(graph, last, nodes, [new], [old], [new.outputs[0]])
    new.outputs[0].name = contract
