"""The command `db3kd` in a process of its own, which writes down what image has which key.

A store knows images by the digest of what was sent, a server's log by that of their pixels. The
file `keys` in the current directory has a line for each image: the one, and the other.
"""

import hashlib
import os
from typing import Any

import numpy as np

if __name__ == "__main__":
    import db3kd.student.training
    from db3kd.cli.main import main
    from db3kd.teachers.remote.teacher import RemoteTeacher

    FILE = os.open("keys", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    KEYS = RemoteTeacher.keys

    def written(self: RemoteTeacher, images: Any) -> list[bytes]:
        found = KEYS(self, images)
        levels = np.rint(self.seen(images).flatten(1).numpy() * 255).astype(np.uint8)
        names = [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in levels]
        lines = [f"{key.hex()} {name}\n" for key, name in zip(found, names, strict=True)]
        os.write(FILE, "".join(lines).encode())
        return found

    RemoteTeacher.keys = written  # type: ignore[method-assign]
    db3kd.student.training.CHECKPOINT_SECONDS = 0.1  # type: ignore[misc]  # 20 are longer than a run here
    main()
