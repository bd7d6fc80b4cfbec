"""Front door 2: workflows as YAML, read strictly, written readably, edited with their comments.

A file is a legacy one of the source documents plus optional keys, so that every legacy file loads.
The keys that are ours, each of which says nothing where it is left out:

Of the workflow:
    ``inputs``: what a run is given; names, or mappings of ``name``, ``description``, ``schema``,
    ``default``, ``required``.
    ``edges``: ``{source, target, when}`` or ``[source, target]``; ``when`` is a branch label.

Of a node:
    ``retry``: extra calls, a name (``immediate``, ``exponential``) or the fields of a RetryPolicy.
    ``cache_strategy``: ``always``, ``never``, ``{ttl: seconds}``, ``{custom: key}``
    (and ``ttl``); where only some inputs count, ``{ttl: seconds, inputs: [names]}`` or
    ``{always: true, inputs: [names]}``.
    ``trigger``: ``success``, ``any``, ``none_failed``, ``failed`` or ``done``.
    ``map_over``: the input whose items each get an invocation; the node's value is the list of
    their results, so a node that declares several outputs says ``outputs: [result]``.
    ``map_depth``: how many levels of lists it goes into; 1.
    ``map_errors``: ``fail`` (a failed invocation fails the node) or ``collect`` (it gives a
    `Failed` value).
    ``map_batch``: items that one invocation is given, which calls the action for each; 1.
    ``max_parallel``: invocations of the node at the same time; any number.
    ``effects``: ``at_least_once`` or ``at_most_once``.
    ``fallback``: the action that is called when the last attempt has failed.
    ``subgraph``: another loaded graph that is the node's body; ``action`` can be left out then.
    ``branch``, ``keep``, ``enabled``, ``metadata``: as for `Node`.

``map_depth``, ``map_errors`` and ``map_batch`` go with ``map_over`` only. ``on_failure`` is read as
``onfailure``.
"""

from __future__ import annotations

from dagger_dsl.yamlio._compose import Limits
from dagger_dsl.yamlio.document import Document, load_document, load_document_file
from dagger_dsl.yamlio.dump import dump_yaml
from dagger_dsl.yamlio.load import GraphList, load_yaml, load_yaml_dir, load_yaml_file

__all__ = [
    "Document",
    "GraphList",
    "Limits",
    "dump_yaml",
    "load_document",
    "load_document_file",
    "load_yaml",
    "load_yaml_dir",
    "load_yaml_file",
]
