"""Distances to the boundary: its geometry, ways of walking along it, row by row or jointly."""

from db3kd.search.robustness import References, RobustnessMap, Status, choose_references
from db3kd.search.rows import (
    boundary_distance,
    measure,
    minimal_boundary_distance,
    sample_distance,
)

__all__ = [
    "References",
    "RobustnessMap",
    "Status",
    "boundary_distance",
    "choose_references",
    "measure",
    "minimal_boundary_distance",
    "sample_distance",
]
