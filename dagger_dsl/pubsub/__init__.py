"""Agents that talk to each other by messages on channels.

A function becomes an agent, an agent names the channels whose messages it is given, and
`PubSubExecutor` runs agents:

    >>> from dagger_dsl.pubsub import PubSubExecutor, StartWith, pubsub_agent
    >>> @pubsub_agent(subscribe="numbers", publish="squares")
    ... def square(number: int) -> int:
    ...     return number * number
    >>> @pubsub_agent(subscribe="squares")
    ... def show(payload):
    ...     print(payload)
    >>> report = PubSubExecutor([square, show]).run(StartWith("numbers", 7))
    49
    >>> report.handled
    2
"""

from dagger_dsl.model.messages import DeadLetter, Message
from dagger_dsl.pubsub.config import PubSubConfig, Reactive, StartWith, WorkflowSpec
from dagger_dsl.pubsub.context import MessageContext
from dagger_dsl.pubsub.definition import PubSubAgent, PubSubAgentDef, pubsub_agent, subscriber
from dagger_dsl.pubsub.executor import PubSubExecutor
from dagger_dsl.pubsub.report import AgentStats, ChannelStats, PubSubExecutionReport
from dagger_dsl.pubsub.waiting import Publication

__all__ = [
    "AgentStats",
    "ChannelStats",
    "DeadLetter",
    "Message",
    "MessageContext",
    "PubSubAgent",
    "PubSubAgentDef",
    "PubSubConfig",
    "PubSubExecutionReport",
    "PubSubExecutor",
    "Publication",
    "Reactive",
    "StartWith",
    "WorkflowSpec",
    "pubsub_agent",
    "subscriber",
]
