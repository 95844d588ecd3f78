"""The systems that the paper compares with, one file each, by their own papers' algorithms.

What a system may see of a teacher stands in its signature; see `db3kd.paper.access`.
"""
