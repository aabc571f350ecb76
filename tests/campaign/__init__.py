"""The campaign: many random transitions of a mesh on a real API server, each settled and checked.

It has a time budget of its own. `MESHWRIGHT_TRANSITIONS=10000` makes it longer, `MESHWRIGHT_SEED=17` walks one path
alone.
"""
