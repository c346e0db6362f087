"""Router: which replica of a deployment a request goes to; pure choices."""

from __future__ import annotations

from collections.abc import Sequence

from hearthd.serving.replica import Replica


def pick(replicas: Sequence[Replica]) -> Replica:
    """The least loaded one that answers, else one that will; raises ModelFailed where all have failed."""
    alive = [replica for replica in replicas if replica.state != "failed"]
    if not alive:
        raise replicas[0].refusal()
    return min(alive, key=lambda replica: (replica.state != "ready", replica.n_outstanding))
