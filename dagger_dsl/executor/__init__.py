"""`DagExecutor`: the catalogue of loaded graphs, and the documents' façade over the one engine.

Graphs are values: a method that changes one puts another in its place, and a run that has started
keeps the one it has. An executor may be used from any thread.
"""

from dagger_dsl.executor._catalogue import DagMetadata
from dagger_dsl.executor._coordinator import Coordinator
from dagger_dsl.executor._facade import DagExecutor, WorkflowSpec
from dagger_dsl.executor._metrics import ExecutionMetrics, NodeSnapshot

__all__ = [
    "Coordinator",
    "DagExecutor",
    "DagMetadata",
    "ExecutionMetrics",
    "NodeSnapshot",
    "WorkflowSpec",
]

# Pickles and messages name this package, whichever of its modules a class is written in.
for _class in (
    Coordinator,
    DagExecutor,
    DagMetadata,
    ExecutionMetrics,
    NodeSnapshot,
    WorkflowSpec,
):
    _class.__module__ = __name__
del _class
