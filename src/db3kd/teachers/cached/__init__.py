"""Every answer is kept before it is used, so that nothing is paid twice.

`Store` is one file of answers. `CachedTeacher` is a teacher around a teacher: it answers from the
store, and asks only for what is missing there.
"""

from db3kd.teachers.cached.account import CHECKS, Account, Purse
from db3kd.teachers.cached.cached import CachedTeacher, float_keys
from db3kd.teachers.cached.records import Imported
from db3kd.teachers.cached.store import Store

__all__ = ["CHECKS", "Account", "CachedTeacher", "Imported", "Purse", "Store", "float_keys"]
