"""Messages match their schemas, decode to what was encoded, and are documented as they are."""

import json

import numpy as np
import pytest
import yaml

from fixtures.json_schema import SchemaMismatch, check
from fixtures.paths import DOCS
from streamgauge.models.blocks.scored_block import VERDICTS
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.validation import (
    ENTITY_BYTES_MAX,
    EVENT_TIME_US_MAX,
    EVENT_TIME_US_MIN,
    Message,
)
from streamgauge.pipeline.config import Config
from streamgauge.transforms.messages import reference, scores
from streamgauge.transforms.messages.alerts import decode_alert, decode_headers
from streamgauge.transforms.messages.dead_letters import PREFIX, decode_dead_letter
from streamgauge.transforms.messages.drift import decode_drift_report
from streamgauge.transforms.messages.examples import DIGEST, TIME_US, TOPIC, examples
from streamgauge.transforms.messages.health import decode_health

EXAMPLES = examples()
SCHEMAS = reference.schemas()
CLOUD_EVENTS = {"alert": decode_alert, "drift": decode_drift_report, "health": decode_health}
HEADERS = {
    "alert": "cloudevents_headers",
    "drift": "cloudevents_headers",
    "health": "cloudevents_headers",
    "score_arrow": "score_headers",
    "score_json": "score_headers",
    "dead_letter": "dead_letter_headers",
}


@pytest.mark.parametrize("kind", CLOUD_EVENTS)
def test_what_an_encoder_writes_matches_the_schema(kind):
    record = CLOUD_EVENTS[kind](EXAMPLES[kind].value)
    check(record, SCHEMAS[kind])
    assert set(record) == set(SCHEMAS[kind]["properties"]), "every field must be documented"
    assert decode_headers(EXAMPLES[kind].headers)["ce_id"] == record["id"]


def test_json_scores_match_the_schema():
    score = json.loads(EXAMPLES["score_json"].value)
    check(score, SCHEMAS["score"])
    assert list(score) == list(SCHEMAS["score"]["properties"]) == scores.SCHEMA.names
    assert SCHEMAS["score"]["properties"]["verdict"]["enum"] == list(VERDICTS)


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_match_the_schema(kind):
    headers = decode_headers(EXAMPLES[kind].headers)
    check(headers, SCHEMAS[HEADERS[kind]])
    assert set(headers) == set(SCHEMAS[HEADERS[kind]]["properties"])


def test_telemetry_that_matches_the_schema_is_decoded():
    value = EXAMPLES["telemetry"].value
    check(json.loads(value), SCHEMAS["telemetry"])
    decoder = Decoder(Schema(tuple(Feature(name) for name in ("a", "b", "c")), "allow"))
    block, dead = decoder.decode(0, [Message(0, TIME_US, value)], 0, 1)
    assert (block.entity_id.to_pylist(), dead) == (["host-17"], [])


def test_bounds_in_the_telemetry_schema_are_those_of_the_decoder():
    properties = SCHEMAS["telemetry"]["properties"]
    assert properties["entity_id"]["maxLength"] == ENTITY_BYTES_MAX
    assert properties["event_time_us"]["minimum"] == EVENT_TIME_US_MIN
    assert properties["event_time_us"]["exclusiveMaximum"] == EVENT_TIME_US_MAX


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "9F"),
        ("status", "reopened"),
        ("score", "9.25"),
        ("features", [{"name": "cpu"}]),
        ("event", {}),
    ],
)
def test_the_schema_refuses_another_alert(field, value):
    alert = decode_alert(EXAMPLES["alert"].value)
    with pytest.raises(SchemaMismatch):
        check({**alert, field: value}, SCHEMAS["alert"])
    with pytest.raises(SchemaMismatch, match="must have"):
        check({name: alert[name] for name in alert if name != field}, SCHEMAS["alert"])


def test_both_formats_of_a_score_decode_to_the_same_bits():
    arrow, as_json = EXAMPLES["score_arrow"].value, EXAMPLES["score_json"].value
    assert (scores.is_arrow(arrow), scores.is_arrow(as_json)) == (True, False)
    names, rows = scores.decode_arrow_scores(arrow)
    json_names, json_rows = scores.decode_json_scores([as_json])
    assert names.to_pylist() == json_names.to_pylist() == ["host-17"]
    np.testing.assert_array_equal(rows, json_rows)
    assert rows["score"].view(np.float32).tolist() == [9.25]
    assert VERDICTS[rows["verdict"][0]] == "anomalous"
    assert scores.is_of(EXAMPLES["score_arrow"].headers, TOPIC, DIGEST)
    assert not scores.is_of(EXAMPLES["score_arrow"].headers, TOPIC, "0" * 64)


def test_other_values_on_the_score_topic_are_refused():
    with pytest.raises(ValueError, match="Expected"):
        scores.decode_arrow_scores(EXAMPLES["score_arrow"].value[:40])
    with pytest.raises(ValueError, match="missing required field") as refused:
        scores.decode_json_scores([EXAMPLES["score_json"].value, b"{}"])
    assert refused.value.args[1] == 1


def test_headers_of_a_dead_letter_decode_to_its_origin():
    letter = decode_dead_letter(EXAMPLES["dead_letter"].headers)
    assert letter["id"] == f"{TOPIC}/3/184468/0"
    assert (letter["partition"], letter["offset"], letter["row"]) == (3, 184_468, 0)
    assert letter["reason"] == "bad_event_time"
    without = [(name, text) for name, text in EXAMPLES["dead_letter"].headers if "row" not in name]
    with pytest.raises(ValueError, match=f"must have a header {PREFIX}row"):
        decode_dead_letter(without)


def test_the_asyncapi_file_is_as_generated():
    assert (DOCS / reference.ASYNCAPI).read_text() == reference.asyncapi_text(), (
        "run python -m streamgauge.transforms.messages.reference"
    )


def test_the_asyncapi_file_embeds_the_shipped_schemas():
    published = yaml.safe_load((DOCS / reference.ASYNCAPI).read_text())
    embedded = {name: s["schema"] for name, s in published["components"]["schemas"].items()}
    assert embedded == SCHEMAS
    assert len(SCHEMAS) == 8


def test_references_in_the_asyncapi_file_resolve():
    published = yaml.safe_load((DOCS / reference.ASYNCAPI).read_text())

    def references(node):
        if isinstance(node, dict):
            for name, value in node.items():
                if name == "$ref":
                    yield value
                else:
                    yield from references(value)

    pointers = list(references(published))
    assert len(pointers) > 20
    for pointer in pointers:
        node = published
        for key in pointer.removeprefix("#/").split("/"):
            node = node[key]


def test_topics_are_those_of_the_default_configuration():
    config = Config(artifact="unused")
    expected = {config.input.topic, *config.output_topics()}
    assert {channel[0] for channel in reference.CHANNELS.values()} == expected
    assert config.input.topic == TOPIC


def test_the_page_of_messages_is_as_generated():
    page = (DOCS / reference.PAGE).read_text()
    assert page == reference.fill_in(page), (
        "run python -m streamgauge.transforms.messages.reference"
    )
    for name in reference.generated_sections():
        assert f"<!-- generated: {name} -->" in page, f"{name} is not on the page"
