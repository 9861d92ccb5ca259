"""Kinds of outputs: what an output is decides what is measured of it. One file each, and this table."""

from calib8.verification.kinds.base import Kind
from calib8.verification.kinds.boxes import Boxes
from calib8.verification.kinds.classes import Classes
from calib8.verification.kinds.ids import Ids
from calib8.verification.kinds.maps import Maps
from calib8.verification.kinds.number import Number
from calib8.verification.kinds.sequences import Sequences
from calib8.verification.kinds.vectors import Vectors
from calib8.verification.named import KindName

__all__ = ["KINDS", "KindName"]

KINDS: dict[KindName, Kind] = {
    "vectors": Vectors(),
    "classes": Classes(),
    "number": Number(),
    "boxes": Boxes(),
    "maps": Maps(),
    "ids": Ids(),
    "sequences": Sequences(),
}
