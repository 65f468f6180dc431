"""Holds the name of a job while it is being started, or runs embedded, on any machine.

The check for a live job and the submission are seconds apart, so two commands could both pass it.
The broker is what all machines share: a command joins the consumer group `<name>.run`, and the
name is free if no other member is in it. A member that dies leaves after `SESSION_S`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.console.progress import Narrate
from streamgauge.pipeline.graph import access
from streamgauge.transforms.kafka.access import new_admin, new_consumer

#: The shortest session that brokers accept by default.
SESSION_S = 6.0
#: Brokers wait 3 s for further members of a new group by default.
JOIN_S_MAX = 15.0
REQUEST_S_MAX = 10.0
POLL_S = 0.1
_OPTIONS = {
    "enable.auto.commit": False,
    "session.timeout.ms": int(SESSION_S * 1000),
    "heartbeat.interval.ms": 1_000,
    # A command that submits a job does not poll meanwhile.
    "max.poll.interval.ms": 600_000,
}

#: Keeps the name; to be called at least every ten minutes.
Keep = Callable[[], None]


@contextmanager
def claimed(config: Config, narrate: Narrate) -> Iterator[Keep]:
    """Hold the name of the job for the duration of a `with` block.

    Without access to consumer groups nothing is held, and a line is emitted.

    Raises:
        ConfigError: another command holds the name.
    """
    group = f"{config.name}.run"
    try:
        admin = new_admin(access(config))
        _await_free(admin, config.name, group)
        consumer = new_consumer(access(config), {**_OPTIONS, "group.id": group})
    except KafkaException as error:
        narrate(_not_held(group, error))
        yield lambda: None
        return
    try:
        try:
            _join(consumer, config.input.topic)
            _check_alone(admin, config.name, group)
        except KafkaException as error:
            narrate(_not_held(group, error))
        yield lambda: _poll(consumer)
    finally:
        consumer.close()


def _await_free(admin: AdminClient, name: str, group: str) -> None:
    """Wait for members that died to leave, no longer than their sessions last."""
    deadline = time.monotonic() + SESSION_S
    while hosts := _members(admin, group):
        if time.monotonic() > deadline:
            raise _taken(name, group, hosts)
        time.sleep(POLL_S)


def _check_alone(admin: AdminClient, name: str, group: str) -> None:
    """Two members that joined at the same time both see two, and both give up."""
    hosts = _members(admin, group)
    if len(hosts) > 1:
        raise _taken(name, group, hosts)


def _members(admin: AdminClient, group: str) -> list[str]:
    """The hosts of the members of a group."""
    answer = admin.describe_consumer_groups([group], request_timeout=REQUEST_S_MAX)
    description: Any = answer[group].result()
    return [member.host for member in description.members]


def _join(consumer: Consumer, topic: str) -> None:
    """Become a member that reads nothing.

    Raises:
        KafkaException: the broker does not accept the member.
    """
    joined: list[bool] = []

    def on_assign(consumer: Consumer, _: Any) -> None:
        consumer.assign([])
        joined.append(True)

    consumer.subscribe([topic], on_assign=on_assign)
    deadline = time.monotonic() + JOIN_S_MAX
    while not joined:
        message = consumer.poll(POLL_S)
        if message is not None and message.error():
            raise KafkaException(message.error())
        if time.monotonic() > deadline:
            raise KafkaException(f"not a member after {JOIN_S_MAX:.0f} s")


def _poll(consumer: Consumer) -> None:
    """Take part in the group; the errors of a broker that is down are not the job's."""
    consumer.poll(0)


def _taken(name: str, group: str, hosts: list[str]) -> ConfigError:
    return ConfigError(
        f"name: only one command may run the job {name!r}; another one on "
        f"{', '.join(sorted(set(hosts)))} is starting it, or runs it embedded (consumer group "
        f"{group!r}). Stop that one, or give this job another name"
    )


def _not_held(group: str, error: KafkaException) -> str:
    return (
        f"warning: the consumer group {group!r} cannot be used ({error}), so a second job of this "
        "name on another machine is not noticed"
    )
