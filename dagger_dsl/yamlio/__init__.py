"""Front door 2: workflows as YAML, read strictly, written readably, edited with their comments."""

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
