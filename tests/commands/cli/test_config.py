"""Configuration: every mistake is named with field, rule and what came."""

from pathlib import Path

import pytest

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.config import from_dict, load, parse_start, to_dict


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"artifact": "a", "alerts": {"cooldown": 3}},
            "alerts.cooldown: unknown key; did you mean",
        ),
        ({"artifact": "a", "colour": 1}, "config: colour: unknown key; known are"),
        ({"artifact": "a", "input": {"limits": {"x": 1}}}, "input.limits.x: unknown key"),
        ({}, "missing required field `artifact`"),
        (
            {"artifact": "a", "alerts": {"per_entity_day": "one"}},
            "alerts.per_entity_day: expected `float`, got `str`",
        ),
        (
            {"artifact": "a", "alerts": {"per_entity_day": 0}},
            "alerts: per_entity_day must be above 0 and at most 86400; got 0",
        ),
        ({"artifact": "a", "alerts": {"cooldown_s": -1}}, "cooldown_s must be 0 to 2592000"),
        ({"artifact": "a", "alerts": None}, "alerts: expected `object`, got `null`"),
        ({"artifact": "a", "scoring": {"shards": 0}}, "scoring.shards: must be at least 1; got 0"),
        (
            {"artifact": "a", "scoring": {"held_blocks_max": 0}},
            "held_blocks_max must be >= 1; got 0",
        ),
        ({"artifact": "a", "scoring": {"late": "never"}}, "scoring: late must be one of"),
        ({"artifact": "a", "scoring": {"late": 1}}, "scoring.late: expected `str`, got `int`"),
        ({"artifact": "a", "scoring": {"policy": {}}}, "scoring.policy: unknown key"),
        ({"artifact": "a", "scoring": {"lat": 1}}, "scoring.lat: unknown key; did you mean 'late'"),
        ({"artifact": "a", "state": {"on_damage": "x"}}, "state: on_damage must be one of"),
        ({"artifact": "a", "input": {"start": "noon"}}, "got 'noon'"),
        ({"artifact": "a", "input": {"routing": "x"}}, "input.routing: must be one of entity, p"),
        ({"artifact": "a", "input": {"topic": "anomaly.alerts.v1"}}, "must not be an output topic"),
        ({"artifact": "a", "flink": {"parallelism": 200}}, "max_parallelism: must be at least 200"),
        ({"artifact": "a", "flink": {"job_endpoint": "x"}}, "job_endpoint: must be host:port"),
        (
            {"artifact": "a", "kafka": {"settings": {"sasl.password": "x"}}},
            "sasl.password is a sec",
        ),
    ],
)
def test_mistake_is_named(data, text):
    with pytest.raises(ConfigError) as caught:
        from_dict(data)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_secret_is_never_repeated():
    with pytest.raises(ConfigError) as caught:
        from_dict({"artifact": "a", "kafka": {"settings": {"sasl.password": "hunter2"}}})
    assert "hunter2" not in str(caught.value)


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no file at"):
        load(tmp_path / "absent.yaml")
    for text in ("a: [", "- 1", ""):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"bad\.yaml must"):
            load(tmp_path / "bad.yaml")


def test_overrides_come_after_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("artifact: model\nalerts: {per_entity_day: 2}\n")
    config = load(path, ["alerts.per_entity_day=4", "input.topic=other", "scores.topic=null"])
    assert (config.alerts.policy.per_entity_day, config.input.topic, config.scores.topic) == (
        4,
        "other",
        None,
    )
    with pytest.raises(ConfigError, match="must be section.key=value"):
        load(path, ["alerts.per_entity_day"])
    with pytest.raises(ConfigError, match="'artifact' in 'artifact.x' is not a section"):
        load(path, ["artifact.x=1"])


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("artifact: model\nkafka: {secrets_file: s.yaml}\n")
    config = load(path)
    assert Path(config.artifact) == tmp_path.resolve() / "model"
    assert Path(config.kafka.secrets_file) == tmp_path.resolve() / "s.yaml"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("earliest", "earliest"),
        ("0:12", {0: 12}),
        ("0:12,3:4", {0: 12, 3: 4}),
        ("2024-01-01T00:00:00Z", 1704067200000),
        ("2024-01-01T01:00:00+01:00", 1704067200000),
        ("2024-01-01", 1704067200000),
    ],
)
def test_starts_are_parsed(text, expected):
    assert parse_start(text) == expected


def test_settings_in_plain_types_make_the_same_configuration() -> None:
    data = {
        "artifact": "a",
        "alerts": {"cooldown_s": 60.0, "topic": "t"},
        "scoring": {"shards": 3, "late": "set_aside"},
        "input": {"limits": {"future_s_max": 5}},
    }
    config = from_dict(data)
    assert config.alerts.policy.cooldown_s == 60.0
    assert from_dict(to_dict(config)) == config
