"""Detection quality: the model and simple baselines on labelled data.

`evaluate` is the command. `detectors` and `baselines` give scores, `metrics` and `nab` compare
them with labels, `results` and `quality_page` write the results, `ablation` leaves parts out.

May import `console`, `data` and `training`.
"""
