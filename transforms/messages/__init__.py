"""The messages that a job writes: encoder and decoder of each kind side by side.

`alerts`, `drift` and `health` are CloudEvents, `scores` are Arrow streams or JSON objects, and
`dead_letters` are refused payloads. `schemas` holds their JSON Schemas, `reference` the docs.
Imports `transforms.metrics` and `models.{artifacts,blocks,drift,events,state}` only.
"""
