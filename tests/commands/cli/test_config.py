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


CASE = Path(__file__).parents[2] / "cases" / "13-unquoted-time-in-yaml"


def test_unquoted_times_offsets_and_properties_are_taken_for_what_they_say():
    assert load(CASE / "job.yaml").input.start == "2024-01-17T00:00:00Z"
    assert load(CASE / "job-offset.yaml").input.start == "1:45"
    assert load(CASE / "job-kafka.yaml").kafka.settings == {
        "security.protocol": "ssl",
        "socket.timeout.ms": "60000",
        "enable.ssl.certificate.verification": "false",
    }


@pytest.mark.parametrize(
    "text",
    [
        *("2024-01-17T00:00:00Z", "2024-01-17 00:00:00", "2024-01-17", "2024-01-17T01:00:00+01:00"),
        *("1:45", "0:120,1:85", "0:0"),
    ],
)
def test_a_start_means_the_same_quoted_or_not_in_a_file_or_as_a_flag(tmp_path, text):
    path = tmp_path / "c.yaml"
    starts = set()
    for quote in ("", '"', "'"):
        path.write_text(f"artifact: a\ninput:\n  start: {quote}{text}{quote}\n")
        starts.add(load(path).input.start)
        path.write_text("artifact: a\n")
        starts.add(load(path, [f"input.start={quote}{text}{quote}"]).input.start)
    assert starts == {text}


def test_a_start_that_is_none_is_shown_as_it_was_written(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("artifact: a\ninput:\n  start: 12:30:45\n")
    with pytest.raises(ConfigError, match="got '12:30:45'"):
        load(path)


@pytest.mark.parametrize(
    ("written", "topic"), [("NO", "NO"), ("2024", "2024"), ("0123", "0123"), ("1e3", "1e3"),
                           ("1_0", "1_0"), ("0x1F", "0x1F"), ("1.50", "1.50"), ("'7'", "7")]
)  # fmt: skip
def test_a_text_key_gets_the_characters_that_were_written(tmp_path, written, topic):
    path = tmp_path / "c.yaml"
    path.write_text(
        f"artifact: a\ninput:\n  topic: {written}\nkafka: {{settings: {{x: {written}}}}}"
    )
    config = load(path, [f"name={written}", f"kafka.settings.client.id={written}"])
    assert (config.input.topic, config.name) == (topic, topic)
    assert config.kafka.settings == {"x": topic, "client.id": topic}


@pytest.mark.parametrize("written", ["1:45", "010", "2024-01-17", "no", "ten", "1.5", "'4'"])
def test_a_number_key_takes_no_other_notation(tmp_path, written):
    path = tmp_path / "c.yaml"
    path.write_text(f"artifact: a\nscoring:\n  shards: {written}\n")
    with pytest.raises(ConfigError, match=r"scoring\.shards: expected `int`, got"):
        load(path)
    path.write_text("artifact: a\n")
    with pytest.raises(ConfigError, match=r"scoring\.shards: expected `int`, got"):
        load(path, [f"scoring.shards={written}"])


def test_numbers_are_read_as_before(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("artifact: a\nscoring: {shards: 1_6}\ndrift: {window_s: 0x10}\n"
                    "health: {interval_s: 1e3}\n"
                    "state: {folder: ~, snapshot_interval_s: +2.5e1}\n")  # fmt: skip
    config = load(path)
    assert (config.scoring.shards, config.drift.window_s, config.health.interval_s) == (16, 16, 1e3)
    assert (config.state.folder, config.state.snapshot_interval_s) == (None, 25.0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ("{a.b: null}", "kafka.settings.a.b: the value must be text; got null"),
        ("{a.b: [x]}", "kafka.settings.a.b: the value must be text; got list ['x']"),
        ("{a: {b: x}}", "kafka.settings.a: the value must be text; got dict {'b': 'x'}"),
        ("{7: x}", "kafka.settings.7: a name must be text; got int 7"),
    ],
)
def test_an_error_in_a_map_names_the_key(tmp_path, settings, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"artifact: a\nkafka:\n  settings: {settings}\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert text in str(caught.value)


def test_a_flag_that_is_no_yaml_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("artifact: a\n")
    with pytest.raises(
        ConfigError, match="--set: input.topic: the value must be YAML, with matching quotes"
    ):
        load(path, ["input.topic=["])
