"""Training of artifacts and the search for settings.

`train` and `tune` are the commands. `curves` records a training, `study` is the file of a search,
`search_space` its settings. Only this room and `models.training` import torch.

May import `console` and `data`.
"""
