"""Images on demand: parquet files, folders and archives of images, lists of them, and arrays.

Every set gives float32 images in [0, 1]. No mean is subtracted. Images are resized or recoloured
only if `size` or `channels` asks for it. Encoded images are decoded when they are read, so memory
grows with the number of images read at a time, not with the size of the set.
"""

from db3kd.data.folders import FolderImages
from db3kd.data.given import images_of
from db3kd.data.images import (
    Images,
    Joined,
    Rows,
    TensorImages,
    check_images,
    content_digest,
    eight_bits,
    in_memory,
)
from db3kd.data.labelled import DataSet, subset
from db3kd.data.parquet import ParquetImages
from db3kd.data.sets import data_root, load
from db3kd.data.soundness import damaged

__all__ = [
    "DataSet",
    "FolderImages",
    "Images",
    "Joined",
    "ParquetImages",
    "Rows",
    "TensorImages",
    "check_images",
    "content_digest",
    "damaged",
    "data_root",
    "eight_bits",
    "images_of",
    "in_memory",
    "load",
    "subset",
]
