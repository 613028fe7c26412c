"""How much memory the sidecar may need, whatever its clients do. The checks of `kubernetes` and `compose` ask it.

The figures are measured by `tests/drills/memory`, with the kernel's socket buffers, which count against a container's limit;
docs/capacity.md explains them. KiB, with `max_header_bytes` and `replay_buffer` as they are by default.
"""

# At rest, with the exec probe, and what is left of a burst.
REST = 16 * 1024
# For each request in progress: its head, its body or its answer, and both connections.
REQUEST = 1200
# For each other connection: a part of a head, or HTTP/2 streams whose answers are not read.
CONNECTION = 760
# Of a limit this part may be used up; the rest is for what was not foreseen, and for pages of the program's file.
PART = 2 / 3


def needed(requests, connections):
    """MiB. `connections`: on all addresses together."""
    return (REST + requests * REQUEST + max(0, connections - requests) * CONNECTION) / 1024


def fault(limit, requests, connections):
    """What is wrong with a limit in MiB; None when it suffices."""
    most = needed(requests, connections)
    if most > limit * PART:
        return f"it may need {most:.0f} MiB, which is more than two thirds of {limit} MiB"
    return None
