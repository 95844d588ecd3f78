"""Every answer is kept before it is used, so that nothing is paid twice.

`Store` is one file of answers; `CachedTeacher` is a teacher that answers from it and asks the rest.
"""

from db3kd.teachers.cached.cached import CachedTeacher, InParts, Settle, float_keys
from db3kd.teachers.cached.records import Imported, OpenTicket
from db3kd.teachers.cached.store import Store

__all__ = ["CachedTeacher", "Imported", "InParts", "OpenTicket", "Settle", "Store", "float_keys"]
