"""Changes to Beam and Flink for which these have no option; the README gives the reasons.

`state_writes` and `step_sampler` change Beam's Python worker, `java_classes` builds a jar of
patched classes, `releases` refuses other releases of Beam. May import: infra.errors.
"""
