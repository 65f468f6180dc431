"""Access to Kafka: the credentials, and the one place where clients are constructed.

Two client libraries are in use. confluent-kafka (librdkafka, C) carries all data: it decodes
several hundred thousand messages a second. kafka-python (pure Python) serves commands that ask a
broker a few questions: its errors name the cause within seconds, where librdkafka retries
silently until a timeout. Configurations use librdkafka's property names; `kafka_python_options`
translates them. kafka-python is imported when a command needs it, never on a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from streamgauge.models.errors import ConfigError

if TYPE_CHECKING:
    from kafka import KafkaAdminClient, KafkaConsumer

# librdkafka reconnects, and logs, twenty times a second by default while a broker is down.
_DEFAULTS = {"reconnect.backoff.ms": 500}

# librdkafka property -> keyword argument of kafka-python.
_KAFKA_PYTHON_OPTIONS = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.mechanisms": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
}


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """Address and credentials of a broker; secrets are read where a client is constructed."""

    #: `host:port`, several separated by commas.
    bootstrap_servers: str
    #: Further librdkafka properties, for instance `security.protocol`.
    settings: Mapping[str, Any] = field(default_factory=dict)
    #: YAML file with secret librdkafka properties; None if there are none.
    secrets_file: str | None = None

    def properties(self) -> dict[str, Any]:
        """Librdkafka properties including secrets: never log them or put them into a job graph.

        Raises:
            ConfigError: the secrets file cannot be read.
        """
        return {
            "bootstrap.servers": self.bootstrap_servers,
            **_DEFAULTS,
            **self.settings,
            **self._secrets(),
        }

    def _secrets(self) -> dict[str, Any]:
        if not self.secrets_file:
            return {}
        try:
            # Every value is a text: a password of digits is no number.
            secrets = yaml.BaseLoader(Path(self.secrets_file).read_text()).get_single_data() or {}
        except (OSError, ValueError, yaml.YAMLError):
            raise ConfigError(
                f"kafka.secrets_file: must be a readable YAML file; got {self.secrets_file}"
            ) from None
        texts = secrets.values() if isinstance(secrets, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError(
                f"kafka.secrets_file: every line must be `property: value`; see {self.secrets_file}"
            )
        return dict(secrets)


def new_consumer(access: KafkaAccess, options: Mapping[str, Any]) -> Consumer:
    """A confluent-kafka consumer; the operator's settings override `options`."""
    return Consumer({**options, **access.properties()})


def new_producer(access: KafkaAccess, options: Mapping[str, Any]) -> Producer:
    """A confluent-kafka producer; the operator's settings override `options`."""
    return Producer({**options, **access.properties()})


def new_admin(access: KafkaAccess) -> AdminClient:
    """A confluent-kafka administration client."""
    return AdminClient(access.properties())


def new_python_consumer(access: KafkaAccess, topic: str, **options: Any) -> KafkaConsumer:
    """A kafka-python consumer of `topic`; `options` are its keyword arguments."""
    from kafka import KafkaConsumer

    return KafkaConsumer(
        topic,
        bootstrap_servers=access.bootstrap_servers,
        **{**options, **kafka_python_options(access.properties())},
    )


def new_python_admin(access: KafkaAccess, **options: Any) -> KafkaAdminClient:
    """A kafka-python administration client; `options` are its keyword arguments."""
    from kafka import KafkaAdminClient

    return KafkaAdminClient(
        bootstrap_servers=access.bootstrap_servers,
        **{**options, **kafka_python_options(access.properties())},
    )


def kafka_python_options(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The access properties among librdkafka's, as keyword arguments of kafka-python.

    >>> kafka_python_options({"security.protocol": "SSL", "linger.ms": 5})
    {'security_protocol': 'SSL'}
    """
    names = _KAFKA_PYTHON_OPTIONS
    return {names[name]: value for name, value in properties.items() if name in names}
