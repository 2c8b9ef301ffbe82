"""How fast the agent serves, forgets and starts, as ratios to what the machine can do (``python -m benchmarks.speed``).

Parts of a run: ``serving`` (windows per second and CPU against bare scripts and Node-RED, latency), ``starting``,
``forgetting`` (and serving meanwhile), ``retraining`` (what that is held against), ``smaller`` (models in int8),
``breakdown`` (where the time of a window goes) and ``growth``. ``load`` offers windows, ``consumers`` starts who
answers them, ``figures`` keeps what was measured.
"""
