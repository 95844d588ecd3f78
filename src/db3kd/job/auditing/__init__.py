"""Queries to fidelity: answers bought in steps until students agree with the teacher."""

from db3kd.job.auditing.audit import audit

__all__ = ["audit"]
