"""Checks Beam's own options on the command line: a mistyped one would be ignored silently.

Beam's Python SDK knows its own options. Those of the Java runner are passed on to it unseen, so
their names are listed here.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from streamgauge.models.errors import ConfigError

#: Options of `FlinkPipelineOptions` in Beam 2.70, as the job server names them.
_FLINK_OPTIONS = """
    allow_non_restored_state attached_mode auto_balance_write_files_sharding_enabled
    auto_watermark_interval checkpoint_timeout_millis checkpointing_interval checkpointing_mode
    disable_metrics enable_stable_input_drain execution_mode_for_batch execution_retry_delay
    externalized_checkpoints_enabled fail_on_checkpointing_errors faster_copy
    file_input_split_max_size_m_b finish_bundle_before_checkpointing flink_conf_dir flink_master
    force_slot_sharing_group force_unaligned_checkpoint_enabled job_check_interval_in_secs
    latency_tracking_interval max_bundle_size max_bundle_time_mills max_parallelism
    min_pause_between_checkpoints num_concurrent_checkpoints number_of_execution_retries
    object_reuse operator_chaining parallelism re_iterable_group_by_key_result
    report_checkpoint_duration retain_externalized_checkpoints_on_cancellation
    shutdown_sources_after_idle_ms state_backend state_backend_factory
    state_backend_storage_path unaligned_checkpoint_enabled use_data_stream_for_batch
"""
FLINK_OPTIONS = frozenset(_FLINK_OPTIONS.split())
#: Options that have checks of our own under another name.
OURS: Mapping[str, str] = {
    "savepoint_path": "--savepoint PATH, before the two dashes",
    "savepoint": "--savepoint PATH, before the two dashes",
    "job_name": "the setting `name`",
    "job_endpoint": "the setting `flink.job_endpoint`",
}


def check(arguments: Sequence[str]) -> None:
    """Check that Beam or its Flink runner knows every option in `arguments`.

    Raises:
        ConfigError: an option is unknown, has no name, or is set in another way; a near name is
            part of the message.
    """
    parser = _Parser(allow_abbrev=False, add_help=False)
    options: set[Any] = set(PipelineOptions.__subclasses__())
    for kind in {str(kind): kind for kind in options}.values():  # Beam: some exist twice
        kind._add_argparse_args(parser)
    for name in names(arguments):
        if name in OURS:
            raise ConfigError(f"option for Beam: --{name} is set by {OURS[name]}; use that instead")
    _, unknown = parser.parse_known_args(list(arguments))
    known = {name.removeprefix("--") for name in parser.options()} | FLINK_OPTIONS
    for name in names(unknown):
        if name not in FLINK_OPTIONS:
            raise ConfigError(
                f"option for Beam: neither Beam nor its Flink runner has --{name}"
                f"{_near(name, known - OURS.keys())}"
            )


def names(arguments: Sequence[str]) -> list[str]:
    """The names of the options; a value follows its option, after `=` or a blank.

    >>> names(["--parallelism=2", "--max_bundle_size", "8"])
    ['parallelism', 'max_bundle_size']
    """
    found_names: list[str] = []
    takes_value = False
    for argument in arguments:
        if argument.startswith("--") and len(argument) > len("--"):
            name, equals, _ = argument[2:].partition("=")
            found_names.append(name)
            takes_value = not equals
        elif not takes_value or argument.startswith("--"):
            raise ConfigError(f"arguments for Beam must start with --; got {argument!r}")
        else:
            takes_value = False
    return found_names


class _Parser(_BeamArgumentParser):
    """Beam's parser, which ends the process when a value is wrong."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"option for Beam: {message}")

    def options(self) -> list[str]:
        """The options that were added, as they are written."""
        actions: list[argparse.Action] = self._actions
        return [option for action in actions for option in action.option_strings]


def _near(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), sorted(known), 1)
    return f"; did you mean --{close[0]}?" if close else ""
