"""Where the shards of a run are done."""

from typing import Annotated, Literal

import msgspec

from db3kd.config.types import Above0, AtLeast0, Count


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the shards of a run are done (`docs/cluster.md`); by default in its own process.

    None of this changes what a run finds, so it may differ each time the run is continued.

    - `engine`: "ray" has workers do them, by the package Ray; "none" does not.
    - `address`: of a Ray cluster, such as "auto" or "ray-head:6379"; "local" starts one on this
      machine, for as long as the command runs.
    - `workers`: how many there are. Each opens the images itself, and the teacher, unless that is
      remote or has a store or votes: then the leading process asks for all of them.
    - `cpus`, `gpus`: what each of them takes of a machine.
    - `patience`: seconds without a sign of a worker, after which its shard goes to another.

    >>> Cluster(engine="ray").workers
    2
    """

    engine: Literal["none", "ray"] = "none"
    address: Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[^\x00]*$")] = "local"
    workers: Count = 2
    cpus: Above0 = 1.0
    gpus: AtLeast0 = 0.0
    patience: Above0 = 60.0
