"""The documents' calculator, and an agent that gives it one operation after the other.

`calculator` does one operation. `evaluate` is given a formula: what it cannot do in its head it
gives to others, and waits without a worker until they are done. So a formula becomes a tree of
tasks that nobody has drawn beforehand.
"""

from __future__ import annotations

import ast
from typing import Any

from dagger_dsl import task_agent
from dagger_dsl.agents import TaskContext

NUMBER = {"type": "number"}


@task_agent(
    description="Performs basic arithmetic",
    input_schema={
        "type": "object",
        "properties": {"a": NUMBER, "b": NUMBER, "op": {"enum": ["add", "sub", "mul", "div"]}},
        "required": ["a", "b", "op"],
    },
    output_schema={"type": "object", "properties": {"result": NUMBER}, "required": ["result"]},
)
async def calculator(a: float, b: float, op: str) -> dict[str, float]:
    """Add, subtract, multiply or divide two numbers."""
    match op:
        case "add":
            return {"result": a + b}
        case "sub":
            return {"result": a - b}
        case "mul":
            return {"result": a * b}
        case _ if b == 0:
            raise ZeroDivisionError("Division by zero")
        case _:
            return {"result": a / b}


OPERATIONS: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
}


@task_agent
def evaluate(formula: str, ctx: TaskContext) -> float:
    """Find the value of a formula, with as many other tasks as that needs."""
    tree = ast.parse(formula, mode="eval").body
    match tree:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.BinOp(left, operator, right) if type(operator) in OPERATIONS:
            op = OPERATIONS[type(operator)]
        case _:
            raise ValueError(f"{formula!r} is no formula of numbers and + - * /")
    # This is called again whenever what it waits for is done, and finds out here how far it is.
    done: list[Any] = ctx.dependency_outputs()
    if len(done) == 3:
        return float(done[2]["result"])
    if len(done) == 2:
        operation = {"a": done[0], "b": done[1], "op": op}
        ctx.block(on=[ctx.add_task("calculator", operation, description=op)])
    sides = map(ast.unparse, (left, right))
    ctx.block(on=[ctx.add_task("evaluate", {"formula": each}, description=each) for each in sides])
