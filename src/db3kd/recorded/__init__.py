"""Every answer is kept before it is used, so that nothing is paid twice.

`Store` is one file of answers; `Recorded` is a teacher that answers from it and asks the rest.
"""

from db3kd.recorded.recorded import InParts, Recorded, Settle, float_keys
from db3kd.recorded.records import Imported, OpenTicket
from db3kd.recorded.store import Store

__all__ = ["Imported", "InParts", "OpenTicket", "Recorded", "Settle", "Store", "float_keys"]
