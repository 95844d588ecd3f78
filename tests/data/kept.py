"""Small sets of images, kept in folders and archives."""

import tarfile
import zipfile
from io import BytesIO

from PIL import Image

from db3kd.data import in_memory

KINDS = ("zip", "tar", "tar.gz", "tgz")


def png(value=0):
    file = BytesIO()
    Image.new("L", (2, 3), value).save(file, "PNG")
    return file.getvalue()


def filled(folder, *names):
    """A folder of images; the value of each is its number."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(value) if not name.endswith("/") else b"")
    return folder


def packed(folder, kind, below="", to=None):
    """An archive of all that is in a folder, below another name if wanted."""
    path = (to or folder.parent) / f"{folder.name}.{kind}"
    files = sorted(file for file in folder.rglob("*"))
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, below + str(file.relative_to(folder)))
    else:
        with tarfile.open(path, "w" if kind == "tar" else "w:gz") as archive:
            for file in files:
                name = below + str(file.relative_to(folder))
                archive.add(file, name, recursive=False)
    return path


def content(data):
    labels = None if data.labels is None else data.labels.tolist()
    return in_memory(data.images).values.flatten(1)[:, 0].tolist(), labels, data.classes
