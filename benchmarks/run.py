"""Do the runs of one plan, or of all; what the CSV already holds is left alone.

    python -m benchmarks.run all
    python -m benchmarks.run t6 every
    python -m benchmarks.run --quick

Plans stand in ``benchmarks/plans.py``. Interrupt at any time: the next call goes on where this one stopped, and several
processes may share the work. ``--quick`` goes through everything once, small, in minutes: untrained networks of width
4, short steps; its numbers mean nothing and are thrown away.
"""
