"""The Python front door: decorated functions, `DAG`, and arrows between them."""

from dagger_dsl.dsl.builder import DAG
from dagger_dsl.dsl.decorators import Action, action, branch
from dagger_dsl.dsl.handles import InputHandle, NodeBuilder, NodeFunction
from dagger_dsl.dsl.operators import Expression, Nodes, active_dag, nodes

__all__ = [
    "DAG",
    "Action",
    "Expression",
    "InputHandle",
    "NodeBuilder",
    "NodeFunction",
    "Nodes",
    "action",
    "active_dag",
    "branch",
    "nodes",
]
