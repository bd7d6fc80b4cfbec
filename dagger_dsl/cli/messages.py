"""``channels``, ``publish``, ``deadletters``: messages of a database, whoever serves it meanwhile.

No agent is run here, and no subscription taken over.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.cli.common import OK, command_line, existing_url
from dagger_dsl.cli.screen import Screen
from dagger_dsl.cli.sources import read_value, text_hint
from dagger_dsl.engine.words import count
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.text import first_line, printable
from dagger_dsl.model.values import to_shown

if TYPE_CHECKING:
    from dagger_dsl.model.message_flow import BusFlow
    from dagger_dsl.model.messages import DeadLetter
    from dagger_dsl.pubsub.executor import PubSubExecutor

__all__ = ["channels", "deadletters", "publish"]

#: Seconds between two looks whether anybody reads what `channels --watch` shows.
_EVERY: Final = 0.5

#: Dead letters that people are shown, where they do not say how many.
_MOST: Final = 20

#: Characters of a payload in a list.
_PAYLOAD: Final = 200


@contextmanager
def _bus(database: str, *, read_only: bool = False) -> Iterator[PubSubExecutor]:
    """Open a bus without agents on a database that is there."""
    url = existing_url(database, read_only=read_only)
    from dagger_dsl.pubsub import PubSubExecutor
    from dagger_dsl.registry import Registry

    with PubSubExecutor([], registry=Registry(), database_url=url) as bus:
        yield bus


def channels(arguments: argparse.Namespace, screen: Screen) -> int:
    """Say how channels and agents stand, once or again and again."""
    if arguments.watch and screen.as_json:
        raise ConfigurationError("--watch is for people; programs call channels --json instead")
    if arguments.watch and arguments.forget is not None:
        raise ConfigurationError("--forget changes something, and --watch shows it; give one")
    with _bus(arguments.db, read_only=arguments.forget is None) as bus:
        if arguments.forget is not None:
            return _forget(bus, arguments.forget, screen)
        if arguments.watch:
            return _watch(bus, screen)
        flow = bus.channel_map().flow
    if screen.as_json:
        screen.json(_flow_plain(flow))
    elif not flow.channels and not flow.agents:
        screen.result("no channels")
    else:
        from dagger_dsl.views.channel_tables import agent_rows, channel_rows, channels_table

        screen.table(list(channel_rows(flow)), channels_table(flow, limit=None))
        if not screen.is_rich and flow.agents:
            screen.result("")
            screen.table(list(agent_rows(flow)))
    return OK


def _forget(bus: PubSubExecutor, agent: str, screen: Screen) -> int:
    bus.unregister(agent, forget=True)
    if screen.as_json:
        screen.json({"command": "channels", "forgotten": agent})
    else:
        screen.result(f"nothing is kept for agent {printable(agent)} any more")
    return OK


def _watch(bus: PubSubExecutor, screen: Screen) -> int:
    """Show how they stand until Ctrl-C; where there is no terminal, a line with each change."""
    from dagger_dsl.views.live_bus import BusDisplay, BusWatch

    if screen.is_terminal:
        display = BusDisplay("bar", console=screen.console)
    else:
        display = BusDisplay("lines", say=screen.result, brief=True)
    try:
        display.watch(BusWatch(bus))
        while not display.is_unread:  # by such as `head`
            time.sleep(_EVERY)
        return OK
    except KeyboardInterrupt:
        return OK
    finally:
        display.close()


def publish(arguments: argparse.Namespace, screen: Screen) -> int:
    """Publish a message."""
    payload = read_value(arguments.payload)
    with _bus(arguments.db) as bus, text_hint(payload, arguments.payload):
        sent = bus.publish(arguments.channel, payload, key=arguments.key, id=arguments.id)
        sent.result()
        message = sent.message
    if screen.as_json:
        screen.json({"message_id": message.id, "channel": message.channel, "key": message.key})
    else:
        screen.result(f"message {printable(message.id)} is on {printable(message.channel)}")
    return OK


def deadletters(arguments: argparse.Namespace, screen: Screen) -> int:
    """List messages that were given up, or give them again, or forget them."""
    from dagger_dsl.pubsub.letters import check_given_up

    with _bus(arguments.db, read_only=arguments.action == "list") as bus:
        agent, ids = arguments.agent, set(arguments.ids) or None
        if arguments.action == "list":
            check_given_up(bus._open_place(), agent, ids)
            found = bus.dead_letters(agent)
            chosen = [each for each in found if ids is None or each.message.id in ids]
            return _list(chosen, arguments, screen)
        if arguments.action == "replay":
            number, told = bus.replay(agent, ids), "given again"
        else:
            number, told = bus.discard(agent, ids), "forgotten"
    if screen.as_json:
        screen.json({"command": f"deadletters {arguments.action}", "messages": number})
    else:
        screen.result(f"{count(number, 'message is', 'messages are')} {told}")
    return OK


def _list(found: Sequence[DeadLetter], arguments: argparse.Namespace, screen: Screen) -> int:
    if screen.as_json:
        screen.json([_letter_plain(each) for each in found[: arguments.limit]])
        return OK
    if not found:
        screen.result("no dead letters")
        return OK
    rows: list[tuple[object, ...]] = [("message", "channel", "agent", "calls", "error", "payload")]
    limit = _MOST if arguments.limit is None else arguments.limit
    for each in found[:limit]:
        message = each.message
        payload = first_line(printable(excerpt(message.payload, _PAYLOAD)[0]), _PAYLOAD)
        names = (printable(message.id), printable(message.channel), printable(each.agent))
        rows.append((*names, each.attempts, first_line(each.error), payload))
    screen.table(rows)
    if len(found) > limit:
        screen.say(f"and {count(len(found) - limit, 'more')}; --limit N shows them")
    screen.say("give them again, or forget them, by:")
    for action in ("replay", "discard"):
        screen.say(f"  {command_line(arguments.db, 'deadletters', action)}")
    return OK


def _flow_plain(flow: BusFlow) -> dict[str, Any]:
    return {
        "channels": [
            {
                "channel": each.name,
                "published": each.published,
                "waiting": each.waiting,
                "dead": each.dead,
                "last_at": each.last_at,
            }
            for each in flow.channels.values()
        ],
        "agents": [
            {
                "agent": each.name,
                "subscribe": list(each.subscribe),
                "waiting": each.waiting,
                "retrying": each.retrying,
                "dead": each.dead,
                "owner": each.owner,
            }
            for each in flow.agents.values()
        ],
    }


def _letter_plain(letter: DeadLetter) -> dict[str, Any]:
    message = letter.message
    return {
        "message_id": message.id,
        "channel": message.channel,
        "key": message.key,
        "agent": letter.agent,
        "attempts": letter.attempts,
        "error": letter.error,
        "at": letter.at,
        "payload": to_shown(message.payload),
    }
