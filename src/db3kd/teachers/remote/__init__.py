"""A classifier behind HTTP as a teacher: what is sent, over which protocol, and how."""

from db3kd.teachers.remote.teacher import RemoteTeacher, remote

__all__ = ["RemoteTeacher", "remote"]
