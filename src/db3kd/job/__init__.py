"""How a recipe is carried out: its teacher, data sets, plan, run, students and report."""

from db3kd.job.auditing import audit
from db3kd.job.plan import forecast
from db3kd.job.session import Job, opened
from db3kd.job.verbs import distill, evaluate, grow, label, run, synthesize

__all__ = [
    "Job",
    "audit",
    "distill",
    "evaluate",
    "forecast",
    "grow",
    "label",
    "opened",
    "run",
    "synthesize",
]
