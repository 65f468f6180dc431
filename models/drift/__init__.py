"""Drift: how the live distribution of features and scores differs from training.

`reference` holds the histograms of the training data and compares a window with them; `windows`
counts the scored blocks of a shard per window of event time.

May import: simd, blocks.
"""
